//! The little HTML that is needed: text that is put in, and text that is made safe first.

use std::fmt::{self, Display, Write};

/// Appends to a page.
macro_rules! put {
    ($page:expr, $($text:tt)*) => { $page.push_str(&format!($($text)*)) };
}
pub(super) use put;

/// Text from elsewhere, as text: it can end no element, no attribute and no comment, and turns no direction.
pub(super) fn esc<T: Display + ?Sized>(text: &T) -> Esc<'_, T> {
    Esc(text)
}

/// What [`esc`] makes.
pub(super) struct Esc<'a, T: ?Sized>(&'a T);

impl<T: Display + ?Sized> Display for Esc<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping(f), "{}", self.0)
    }
}

struct Escaping<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            match c {
                '&' => self.0.write_str("&amp;")?,
                '<' => self.0.write_str("&lt;")?,
                '>' => self.0.write_str("&gt;")?,
                '"' => self.0.write_str("&quot;")?,
                '\'' => self.0.write_str("&#39;")?,
                '\n' | '\t' => self.0.write_char(c)?,
                // Control characters, and those that make text read in another order than it is written.
                c if c.is_control()
                    || matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') =>
                {
                    self.0.write_char('\u{fffd}')?;
                }
                c => self.0.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// At most so many characters.
pub(super) fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.to_owned(),
    }
}
