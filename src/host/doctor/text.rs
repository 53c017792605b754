//! Text of others, made harmless before anybody prints it.

use std::fmt::Write;

/// The most of one line that is shown.
const MOST: usize = 400;

/// One line that a terminal cannot take for anything but text: no control
/// characters, nothing that changes the direction of writing, not too long.
pub(super) fn visible(text: &str) -> String {
    let mut shown = String::new();
    let mut characters = text.trim_end().chars();
    for character in characters.by_ref().take(MOST) {
        match character {
            '\t' => shown.push(' '),
            // Those that hide, join or reorder what is around them.
            '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}' => {
                let _ = write!(shown, "\\u{{{:x}}}", u32::from(character));
            }
            character if character.is_control() => {
                let _ = write!(shown, "\\x{:02x}", u32::from(character));
            }
            character => shown.push(character),
        }
    }
    if characters.next().is_some() {
        shown.push_str("...");
    }
    shown
}

/// A word for a shell: quoted if it needs it, one line at any rate.
pub(super) fn quoted(word: &str) -> String {
    let plain =
        |character: char| character.is_ascii_alphanumeric() || "/._-+=:@%,".contains(character);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", visible(word).replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_is_left() {
        assert_eq!(
            visible("a\x1b[31mred\0\r\u{9b}"),
            r"a\x1b[31mred\x00\x0d\x9b"
        );
        assert_eq!(visible("\u{202e}txt"), r"\u{202e}txt");
        assert_eq!(visible(&"x".repeat(1000)).len(), MOST + 3);
    }

    #[test]
    fn a_word_stays_one_word_in_a_shell() {
        assert_eq!(quoted("/usr/bin/x"), "/usr/bin/x");
        assert_eq!(quoted("a b'c; rm"), r"'a b'\''c; rm'");
        assert_eq!(quoted(""), "''");
    }
}
