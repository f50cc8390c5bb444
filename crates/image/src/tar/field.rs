//! The fixed fields of a header block.

use super::{BLOCK, TarErrorKind};

/// One header block.
pub(super) type Block = [u8; BLOCK];

/// Which fields a header block has beyond those of v7.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    V7,
    Ustar,
    /// ustar with star's shorter prefix.
    Star,
    Gnu,
}

pub(super) fn format(block: &Block) -> Format {
    match (&block[257..263], &block[508..512]) {
        (b"ustar ", _) => Format::Gnu,
        (b"ustar\0", b"tar\0") => Format::Star,
        (b"ustar\0", _) => Format::Ustar,
        _ => Format::V7,
    }
}

pub(super) const NAME: std::ops::Range<usize> = 0..100;
pub(super) const LINK: std::ops::Range<usize> = 157..257;
pub(super) const TYPE: usize = 156;

/// The bytes of a text field up to its NUL, if it has one.
pub(super) fn text(field: &[u8]) -> &[u8] {
    match field.iter().position(|byte| *byte == 0) {
        Some(end) => &field[..end],
        None => field,
    }
}

/// The ustar name prefix: empty for the formats that keep other things there.
pub(super) fn prefix(block: &Block) -> &[u8] {
    match format(block) {
        Format::Ustar => text(&block[345..500]),
        Format::Star => text(&block[345..476]),
        Format::V7 | Format::Gnu => &[],
    }
}

/// Whether the block's checksum is right. Old tars summed signed bytes; both sums are accepted.
pub(super) fn checksum_ok(block: &Block) -> bool {
    let Ok(stored) = number(&block[148..156], "checksum") else { return false };
    let unsigned: i64 = block.iter().map(|byte| i64::from(*byte)).sum();
    let field: i64 = block[148..156].iter().map(|byte| i64::from(*byte)).sum();
    let unsigned = unsigned - field + 8 * i64::from(b' ');
    if stored == unsigned {
        return true;
    }
    let high = |bytes: &[u8]| bytes.iter().filter(|byte| **byte >= 0x80).count() as i64;
    stored == unsigned - 256 * (high(block) - high(&block[148..156]))
}

/// A numeric field: octal with optional padding of spaces and NULs, or base-256. An empty field is 0.
pub(super) fn number(field: &[u8], name: &'static str) -> Result<i64, TarErrorKind> {
    let bad = TarErrorKind::Number(name);
    match field.first() {
        Some(first) if first & 0x80 != 0 => base256(field).ok_or(bad),
        _ => octal(field).ok_or(bad),
    }
}

/// A numeric field that cannot be negative.
pub(super) fn unsigned(field: &[u8], name: &'static str) -> Result<u64, TarErrorKind> {
    u64::try_from(number(field, name)?).map_err(|_| TarErrorKind::Number(name))
}

fn octal(field: &[u8]) -> Option<i64> {
    let padding = |byte: &&u8| matches!(**byte, b' ' | 0);
    let start = field.iter().take_while(padding).count();
    let end = field.len() - field[start..].iter().rev().take_while(padding).count();
    let mut value = 0_i64;
    for byte in &field[start..end] {
        match byte {
            // At most 12 digits of 3 bits: no overflow.
            b'0'..=b'7' => value = value << 3 | i64::from(byte - b'0'),
            _ => return octal_then_junk(&field[start..end]),
        }
    }
    Some(value)
}

/// Digits ended by a NUL or space, with rubbish behind it: some writers reuse buffers. Digits must come first.
fn octal_then_junk(field: &[u8]) -> Option<i64> {
    let end = field.iter().position(|byte| matches!(byte, b' ' | 0))?;
    if end == 0 || !field[..end].iter().all(|byte| matches!(byte, b'0'..=b'7')) {
        return None;
    }
    octal(&field[..end])
}

/// Two's complement, big-endian, with the marker bit 0x80 of the first byte taken off (0x40 is then the sign).
fn base256(field: &[u8]) -> Option<i64> {
    let negative = field[0] & 0x40 != 0;
    let fill = if negative { 0xff } else { 0 };
    let mut value = if negative { -1_i64 } else { 0 };
    for (index, byte) in field.iter().enumerate() {
        let byte = match (index, negative) {
            (0, true) => *byte,
            (0, false) => byte & 0x7f,
            _ => *byte,
        };
        // Bytes above the lowest eight only extend the sign.
        if index + 8 < field.len() && byte != fill {
            return None;
        }
        value = value << 8 | i64::from(byte);
    }
    ((value < 0) == negative).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octal_fields() {
        let table: &[(&[u8], Option<i64>)] = &[
            (b"0000644\0", Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"77777777", Some(0o77_777_777)),
            (b"777777777777", Some(0o777_777_777_777)),
            (b"644\0junk", Some(0o644)),
            (b"00000-1\0", None),
            (b"0000648\0", None),
            (b"x\0\0\0\0\0\0\0", None),
        ];
        for (field, value) in table {
            assert_eq!(number(field, "f").ok(), *value, "{}", field.escape_ascii());
        }
    }

    #[test]
    fn base256_fields() {
        let table: &[(&[u8], Option<i64>)] = &[
            (b"\x80\0\0\0\0\0\0\x05", Some(5)),
            (b"\x80\0\0\x02\0\0\0\0\0\0\0\0", None),
            (b"\x80\0\0\0\0\0\0\x02\0\0\0\0", Some(0x2_0000_0000)),
            (b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", Some(i64::MAX)),
            (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (b"\xff\xff\xff\xff\x80\0\0\0\0\0\0\0", Some(i64::MIN)),
            (b"\xff\xff\xff\xff\x7f\0\0\0\0\0\0\0", None),
            (b"\xc0\0\0\0\0\0\0\0\0\0\0\0", None),
        ];
        for (field, value) in table {
            assert_eq!(number(field, "f").ok(), *value, "{}", field.escape_ascii());
        }
        assert!(unsigned(b"\xff\xff\xff\xff\xff\xff\xff\xff", "f").is_err());
    }
}
