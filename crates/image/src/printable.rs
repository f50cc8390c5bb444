//! Foreign text on its way to a terminal.
//!
//! Names, platforms, commands and messages come from whoever made an image or runs a registry. Shown as they are, they
//! could move the cursor, rename the window, or order words so that they read as something else. [`printable`] is the one
//! rule for all of them: whatever is shown of foreign text goes through it, or through `{:?}`, which escapes no less.

use std::fmt::{self, Write as _};

/// Text that a terminal can be given. Borrowed; escaped as it is displayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Printable<'a>(&'a str);

/// Shows `text` on one line, with every character that acts on a terminal, breaks the line or changes the direction of
/// writing as an escape (`\u{1b}`). Anything else, in whatever script, stays as it is.
pub fn printable(text: &str) -> Printable<'_> {
    Printable(text)
}

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '\n' | '\r' | '\t' => write!(f, "{}", character.escape_default())?,
                _ if acts(character) => write!(f, "{}", character.escape_unicode())?,
                _ => f.write_char(character)?,
            }
        }
        Ok(())
    }
}

/// Control characters of both sets, separators of lines and paragraphs, marks of direction (Unicode Standard Annex 9),
/// and characters that are not seen at all.
fn acts(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_acts_on_a_terminal_is_escaped() {
        let table = [
            ("linux/amd64", "linux/amd64"),
            ("größer \u{1f600} 中 \\ \"quoted\"", "größer \u{1f600} 中 \\ \"quoted\""),
            ("\u{1b}]0;title\u{7}", "\\u{1b}]0;title\\u{7}"),
            ("one\r\ntwo\tthree", "one\\r\\ntwo\\tthree"),
            ("\u{9b}31m\u{7f}", "\\u{9b}31m\\u{7f}"),
            ("exe\u{202e}gnp", "exe\\u{202e}gnp"),
            ("\u{2066}\u{2028}\u{200b}", "\\u{2066}\\u{2028}\\u{200b}"),
        ];
        for (text, shown) in table {
            assert_eq!(printable(text).to_string(), shown);
        }
    }

    proptest! {
        #[test]
        fn nothing_shown_acts(text in any::<String>()) {
            prop_assert!(!printable(&text).to_string().chars().any(acts));
        }
    }
}
