//! What a person reads: headings, lines, colours where there is a terminal.

use std::fmt::Display;
use std::io::{self, Write};

use anstream::AutoStream;
use anstyle::{AnsiColor, Style};

/// A heading's.
const HEADING: Style = Style::new().bold();
/// What is less important.
pub(super) const DIM: Style = Style::new().dimmed();
/// What is as it should be.
pub(super) const GOOD: Style = AnsiColor::Green.on_default();
/// What is not.
pub(super) const BAD: Style = AnsiColor::Red.on_default().bold();

/// Standard output. It has no colours if it is not a terminal, or if
/// `NO_COLOR` is set. That nobody reads it any more does not stop a command.
pub(super) struct Screen(AutoStream<io::Stdout>);

impl Screen {
    pub(super) fn new() -> Self {
        Screen(AutoStream::auto(io::stdout()))
    }

    /// A heading, after an empty line.
    pub(super) fn heading(&mut self, text: &str) {
        self.line(format_args!("\n{HEADING}{text}{HEADING:#}"));
    }

    /// The first line.
    pub(super) fn title(&mut self, text: impl Display) {
        self.line(format_args!("{HEADING}{text}{HEADING:#}"));
    }

    pub(super) fn line(&mut self, text: impl Display) {
        let _ = writeln!(self.0, "{text}");
    }

    /// Several lines, under a heading.
    pub(super) fn block(&mut self, text: &str) {
        for line in text.lines() {
            self.line(format_args!("  {}", line.replace('\t', "  ")));
        }
    }
}

/// A size as people say it.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut text = format!("{bytes} B");
    let mut rest = bytes;
    for unit in UNITS {
        if rest < 1024 || !rest.is_multiple_of(1024) {
            break;
        }
        rest /= 1024;
        text = format!("{rest} {unit}");
    }
    text
}

/// Cut to what fits, at a word.
pub(super) fn fit(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let first = |count| text.chars().take(count).collect::<String>();
    let room = width.saturating_sub(3);
    // A word ends where the space after it is.
    let words = match first(room + 1).rsplit_once(' ') {
        Some((words, _)) => words.to_owned(),
        None => first(room),
    };
    format!("{}...", words.trim_end_matches([',', ';', ' ']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_said_in_the_largest_whole_unit() {
        let said = [0, 8, 1024, 4096, 4097, 3 << 20, 1 << 60, u64::MAX].map(size);
        let expected = [
            "0 B",
            "8 B",
            "1 KiB",
            "4 KiB",
            "4097 B",
            "3 MiB",
            "1 EiB",
            "18446744073709551615 B",
        ];
        assert_eq!(said, expected);
    }

    #[test]
    fn a_long_text_is_cut_at_a_word() {
        assert_eq!(fit("short", 10), "short");
        assert_eq!(fit("one, two three", 11), "one, two...");
        assert_eq!(fit("one, two", 7), "one...");
        assert_eq!(fit("unbreakable", 6), "unb...");
    }
}
