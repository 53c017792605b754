//! A patch as `git format-patch` writes it, in parts that can be replaced.

use std::fmt;

/// What git wraps the statistics at.
const STATISTICS_WIDTH: usize = 72;

/// A patch; [`fmt::Display`] writes it with new statistics.
pub(crate) struct Patch {
    /// Up to the line `---`.
    message: String,
    files: Vec<File>,
}

/// The part of a patch that concerns one file. None of ours removes a line.
struct File {
    name: String,
    /// Up to the first hunk.
    head: String,
    /// Each with its first line.
    hunks: Vec<Hunk>,
}

struct Hunk {
    old_start: usize,
    new_start: usize,
    /// What follows the second `@@`.
    section: String,
    lines: Vec<String>,
}

impl Patch {
    pub(crate) fn parse(text: &str) -> Self {
        let (message, rest) = text.split_once("\n---\n").unwrap();
        let files = rest.split("\ndiff --git ").skip(1).map(File::parse);
        Self {
            message: message.to_owned(),
            files: files.collect(),
        }
    }

    /// Makes the patch add a file with this text, if it adds that file.
    pub(crate) fn set_new_file(&mut self, name: &str, text: &str) {
        self.set(name, |hunk| {
            hunk.lines = text.lines().map(|line| format!("+{line}")).collect();
        });
    }

    /// Makes the patch append a block of lines to a file, after an empty
    /// line, if it appends to that file.
    pub(crate) fn set_addition(&mut self, name: &str, block: &str) {
        self.set(name, |hunk| {
            hunk.lines.retain(|line| line.starts_with(' '));
            hunk.lines.push("+".to_owned());
            let lines = block.trim_start().lines();
            hunk.lines.extend(lines.map(|line| format!("+{line}")));
        });
    }

    fn set(&mut self, name: &str, change: impl Fn(&mut Hunk)) {
        for file in self.files.iter_mut().filter(|file| file.name == name) {
            assert_eq!(file.hunks.len(), 1, "{name}");
            change(&mut file.hunks[0]);
        }
    }
}

impl File {
    /// Parses what follows `diff --git `.
    fn parse(text: &str) -> Self {
        let text = text.trim_end_matches('\n');
        let name = text.split_once(" b/").unwrap().0;
        let mut parts = text.split("\n@@ ");
        Self {
            name: name.trim_start_matches("a/").to_owned(),
            head: parts.next().unwrap().to_owned(),
            hunks: parts.map(Hunk::parse).collect(),
        }
    }

    fn added(&self) -> usize {
        self.hunks.iter().map(|hunk| hunk.count('+')).sum()
    }

    fn is_new(&self) -> bool {
        self.head.contains("\nnew file mode ")
    }
}

impl Hunk {
    fn parse(text: &str) -> Self {
        let (place, rest) = text.split_once(" @@").unwrap();
        let start = |sign: char| {
            let range = place.split(sign).nth(1).unwrap();
            let number = range.split([',', ' ']).next().unwrap();
            number.parse().unwrap()
        };
        let mut lines = rest.split('\n').map(str::to_owned);
        Self {
            old_start: start('-'),
            new_start: start('+'),
            section: lines.next().unwrap(),
            lines: lines.collect(),
        }
    }

    fn count(&self, sign: char) -> usize {
        let lines = self.lines.iter();
        lines.filter(|line| line.starts_with(sign)).count()
    }
}

impl fmt::Display for Patch {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{}\n---", self.message)?;
        let names = self.files.iter().map(|file| file.name.len());
        let widest = names.max().unwrap_or(0);
        let most = self.files.iter().map(File::added).max().unwrap_or(0);
        let digits = most.to_string().len();
        // As git does it: " NAME | COUNT GRAPH".
        let room = STATISTICS_WIDTH - widest - digits - 6;
        for file in &self.files {
            let added = file.added();
            let length = if most > room {
                1 + added * (room - 1) / most
            } else {
                added
            };
            let graph = "+".repeat(length);
            writeln!(out, " {:widest$} | {added:digits$} {graph}", file.name)?;
        }
        let files = self.files.len();
        let total: usize = self.files.iter().map(File::added).sum();
        let (s, ss) = (plural(files), plural(total));
        writeln!(out, " {files} file{s} changed, {total} insertion{ss}(+)")?;
        for file in self.files.iter().filter(|file| file.is_new()) {
            writeln!(out, " create mode 100644 {}", file.name)?;
        }
        writeln!(out)?;
        for file in &self.files {
            writeln!(out, "diff --git {}", file.head)?;
            for hunk in &file.hunks {
                write!(out, "{hunk}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Hunk {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let old = self.count(' ');
        let new = old + self.count('+');
        let (from, to, section) = (self.old_start, self.new_start, &self.section);
        writeln!(out, "@@ -{from},{old} +{to},{new} @@{section}")?;
        for line in &self.lines {
            writeln!(out, "{line}")?;
        }
        Ok(())
    }
}

fn plural(number: usize) -> &'static str {
    if number == 1 { "" } else { "s" }
}
