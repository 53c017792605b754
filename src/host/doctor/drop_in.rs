//! xenopsd's configuration, read as xenopsd reads it (xen-api,
//! `xcp_service.ml`): `/etc/xenopsd.conf`, then every file of
//! `/etc/xenopsd.conf.d` whatever its name, sorted; the last one counts, and
//! what it does not know it passes over without a word.

use super::view::View;

/// The first file.
const FILE: &str = "/etc/xenopsd.conf";
/// The directory.
pub(super) const DIRECTORY: &str = "/etc/xenopsd.conf.d";
/// The key that names the wrapper.
pub(super) const KEY: &str = "upstream-compat-qemu-dm-wrapper";

/// A line that says something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Assignment {
    pub file: String,
    pub line: u64,
    pub key: String,
    pub value: String,
}

/// All lines that say something, in xenopsd's order.
#[derive(Clone, Debug, Default)]
pub(super) struct Xenopsd {
    pub assignments: Vec<Assignment>,
    /// Files that cannot be read, and why.
    pub unreadable: Vec<(String, String)>,
}

impl Xenopsd {
    pub(super) fn read(view: &View) -> Self {
        let mut all = Xenopsd::default();
        let fragments = view.list(DIRECTORY);
        let fragments = fragments.iter().map(|name| format!("{DIRECTORY}/{name}"));
        for file in [FILE.to_owned()].into_iter().chain(fragments) {
            match view.text(&file) {
                Ok(text) => all.add(&file, &text),
                Err(_) if file == FILE => {}
                Err(error) => all.unreadable.push((file, error.to_string())),
            }
        }
        all
    }

    fn add(&mut self, file: &str, text: &str) {
        for (line, text) in (1..).zip(text.lines()) {
            if let Some((key, value)) = parse(text) {
                self.assignments.push(Assignment {
                    file: file.to_owned(),
                    line,
                    key: key.to_owned(),
                    value: value.to_owned(),
                });
            }
        }
    }

    /// What counts for a key.
    pub(super) fn last(&self, key: &str) -> Option<&Assignment> {
        self.assignments.iter().rfind(|said| said.key == key)
    }

    /// What a file says.
    pub(super) fn of_file(&self, file: &str) -> impl Iterator<Item = &Assignment> {
        self.assignments
            .iter()
            .filter(move |said| said.file == file)
    }
}

/// `key = value # comment`. The key is the last word before the first `=`.
fn parse(line: &str) -> Option<(&str, &str)> {
    let blanks = [' ', '\t'];
    let line = line.split('#').next()?.trim_end_matches(blanks);
    let (key, value) = line.split_once('=')?;
    let key = key
        .split([' ', '\t', '\\'])
        .rfind(|word| !word.is_empty())?;
    let value = value.trim_start_matches([' ', '\t', '\\']);
    for quote in ['\'', '"'] {
        let inner = value.strip_prefix(quote);
        if let Some(inner) = inner.and_then(|value| value.strip_suffix(quote)) {
            return Some((key, inner));
        }
    }
    Some((key, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_xenopsd_reads_it() {
        let read = [
            ("", None),
            ("# Foo", None),
            ("whatever", None),
            ("n=2 # and no more", Some(("n", "2"))),
            ("   n\t = 'foo bar ' \t# comment", Some(("n", "foo bar "))),
            ("n = \"test\"", Some(("n", "test"))),
            ("two words = x", Some(("words", "x"))),
            ("a=b=c", Some(("a", "b=c"))),
            ("a='", Some(("a", "'"))),
        ];
        for (line, expected) in read {
            assert_eq!(parse(line), expected, "{line}");
        }
    }
}
