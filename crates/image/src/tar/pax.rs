//! PAX extended headers: `length key=value` records.

use super::sparse::{self, MapBuilder};
use super::{TarErrorKind, Timestamp, Unread, Xattrs};
use crate::limits;

/// The records of an entry that matter, parsed. An empty value in the archive is `None` here.
#[derive(Debug, Default)]
pub(super) struct Records {
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Timestamp>,
    pub(super) atime: Option<Timestamp>,
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) xattrs: Xattrs,
    xattr_bytes: usize,
    pub(super) unread: Unread,
    /// Extended attributes in libarchive's form.
    libarchive_xattrs: usize,
    pub(super) sparse: Option<Box<Sparse>>,
}

/// The `GNU.sparse.*` records.
#[derive(Debug, Default)]
pub(super) struct Sparse {
    pub(super) major: Option<u64>,
    pub(super) minor: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    /// Formats 0.0 and 0.1 carry the map here.
    pub(super) map: Option<MapBuilder>,
    /// Format 0.0: an offset whose length has not come yet.
    offset: Option<u64>,
}

impl Records {
    pub(super) fn parse(mut data: &[u8]) -> Result<Records, TarErrorKind> {
        let mut records = Records::default();
        while !data.is_empty() {
            let (key, value, rest) = split_record(data)?;
            records.set(key, value)?;
            data = rest;
        }
        records.unread.attribute = records.libarchive_xattrs > records.xattrs.len();
        match &records.sparse {
            Some(sparse) if sparse.offset.is_some() => {
                Err(TarErrorKind::Sparse("an offset without a length"))
            }
            _ => Ok(records),
        }
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarErrorKind> {
        match key {
            b"path" => self.path = name(value)?,
            b"linkpath" => self.link = name(value)?,
            b"size" => self.size = number(value, "size is no number")?.map(file_size).transpose()?,
            b"uid" => self.uid = number(value, "uid is no number")?,
            b"gid" => self.gid = number(value, "gid is no number")?,
            b"mtime" => self.mtime = time(value)?,
            b"atime" => self.atime = time(value)?,
            _ => {
                if let Some(key) = key.strip_prefix(XATTR) {
                    self.set_xattr(key, value)?;
                } else if key.starts_with(ACCESS_LIST) {
                    self.unread.access_list = true;
                } else if key.starts_with(LIBARCHIVE_XATTR) {
                    self.libarchive_xattrs += 1;
                } else if key == LABEL {
                    self.unread.label = true;
                } else if let Some(key) = key.strip_prefix(SPARSE) {
                    self.sparse.get_or_insert_default().set(key, value)?;
                }
            }
        }
        Ok(())
    }

    /// Unlike other records an empty attribute is an attribute: GNU tar writes and reads it as such.
    fn set_xattr(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarErrorKind> {
        let too_large = |what, limit: usize| Err(TarErrorKind::TooLarge { what, limit: limit as u64 });
        if key.is_empty() || key.contains(&0) {
            return Err(TarErrorKind::Pax("an extended attribute has an impossible name"));
        }
        if key.len() > limits::XATTR_NAME_BYTES {
            return too_large("name of an extended attribute", limits::XATTR_NAME_BYTES);
        }
        if value.len() > limits::XATTR_VALUE_BYTES {
            return too_large("value of an extended attribute", limits::XATTR_VALUE_BYTES);
        }
        self.xattr_bytes += key.len() + value.len();
        if self.xattr_bytes > limits::XATTRS_BYTES {
            return too_large("size of all extended attributes of an entry", limits::XATTRS_BYTES);
        }
        self.xattrs.insert(key.into(), value.into());
        Ok(())
    }
}

/// A header for all entries that follow may hold nothing that would change them: one reader applies it, the next does
/// not.
pub(super) fn check_global(mut data: &[u8]) -> Result<(), TarErrorKind> {
    while !data.is_empty() {
        let (key, _, rest) = split_record(data)?;
        let what = match key {
            b"path" => "a path",
            b"linkpath" => "a link target",
            b"size" => "a size",
            b"uid" | b"gid" => "an owner",
            b"mtime" | b"atime" => "a time",
            _ if key.starts_with(SPARSE) => "a sparse map",
            _ if [XATTR, LIBARCHIVE_XATTR].iter().any(|form| key.starts_with(form)) => {
                "an extended attribute"
            }
            _ if key.starts_with(ACCESS_LIST) => "an access list",
            LABEL => "a label",
            _ => {
                data = rest;
                continue;
            }
        };
        return Err(TarErrorKind::GlobalPax(what));
    }
    Ok(())
}

impl Sparse {
    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarErrorKind> {
        match key {
            b"major" => self.major = Some(sparse::decimal(value)?),
            b"minor" => self.minor = Some(sparse::decimal(value)?),
            b"name" => self.name = name(value)?,
            b"size" | b"realsize" => self.size = Some(file_size(sparse::decimal(value)?)?),
            b"map" if self.map.is_some() => return Err(TarErrorKind::Sparse("two maps")),
            b"map" => self.map = Some(sparse::parse_list(value)?),
            b"offset" => {
                let previous = self.offset.replace(sparse::decimal(value)?);
                if previous.is_some() {
                    return Err(TarErrorKind::Sparse("an offset without a length"));
                }
            }
            b"numbytes" => {
                let offset = self.offset.take().ok_or(TarErrorKind::Sparse("a length without an offset"))?;
                self.map.get_or_insert_default().push(offset, sparse::decimal(value)?)?;
            }
            // numblocks: the map itself says how many.
            _ => {}
        }
        Ok(())
    }
}

const XATTR: &[u8] = b"SCHILY.xattr.";
const ACCESS_LIST: &[u8] = b"SCHILY.acl.";
const LIBARCHIVE_XATTR: &[u8] = b"LIBARCHIVE.xattr.";
const LABEL: &[u8] = b"RHT.security.selinux";
const SPARSE: &[u8] = b"GNU.sparse.";

type Record<'a> = (&'a [u8], &'a [u8], &'a [u8]);

/// Key and value of the first record, and what follows it. The length counts the whole record.
fn split_record(data: &[u8]) -> Result<Record<'_>, TarErrorKind> {
    let digits = data.iter().take_while(|byte| byte.is_ascii_digit()).count();
    // A header is at most 1 MiB, which takes seven digits.
    if digits == 0 || digits > 9 || data.get(digits) != Some(&b' ') {
        return Err(TarErrorKind::Pax("a record does not start with its length"));
    }
    let length = data[..digits].iter().fold(0_usize, |value, digit| value * 10 + usize::from(digit - b'0'));
    let record = data.get(digits + 1..length).ok_or(TarErrorKind::Pax("a record's length is impossible"))?;
    let Some((b'\n', record)) = record.split_last() else {
        return Err(TarErrorKind::Pax("a record does not end with a newline"));
    };
    match record.iter().position(|byte| *byte == b'=') {
        None | Some(0) => Err(TarErrorKind::Pax("a record has no key")),
        Some(equals) => Ok((&record[..equals], &record[equals + 1..], &data[length..])),
    }
}

fn name(value: &[u8]) -> Result<Option<Vec<u8>>, TarErrorKind> {
    if value.contains(&0) {
        return Err(TarErrorKind::Pax("a name contains a NUL"));
    }
    if value.len() > limits::PATH_BYTES {
        return Err(TarErrorKind::TooLarge { what: "length of a name", limit: limits::PATH_BYTES as u64 });
    }
    Ok((!value.is_empty()).then(|| value.to_vec()))
}

fn number(value: &[u8], problem: &'static str) -> Result<Option<u64>, TarErrorKind> {
    if value.is_empty() {
        return Ok(None);
    }
    sparse::decimal(value).map(Some).map_err(|_| TarErrorKind::Pax(problem))
}

/// Files end before 2^63, in the kernel as well as in the other fields of tar.
fn file_size(value: u64) -> Result<u64, TarErrorKind> {
    match i64::try_from(value) {
        Ok(_) => Ok(value),
        Err(_) => Err(TarErrorKind::Pax("a size is beyond the largest file")),
    }
}

/// `[-]seconds[.fraction]`; digits beyond nanoseconds are cut off.
fn time(value: &[u8]) -> Result<Option<Timestamp>, TarErrorKind> {
    if value.is_empty() {
        return Ok(None);
    }
    let bad = TarErrorKind::Pax("a time is no number");
    let (negative, digits) = match value.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, value),
    };
    let (whole, fraction) = match digits.iter().position(|byte| *byte == b'.') {
        Some(point) => (&digits[..point], &digits[point + 1..]),
        None => (digits, &b""[..]),
    };
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(bad);
    }
    let Some(whole) = sparse::decimal(whole).ok().and_then(|whole| i64::try_from(whole).ok()) else {
        return Err(bad);
    };
    let mut nanoseconds = 0_u32;
    for place in 0..9 {
        nanoseconds = nanoseconds * 10 + fraction.get(place).map_or(0, |digit| u32::from(digit - b'0'));
    }
    Ok(Some(match (negative, nanoseconds) {
        (false, _) => Timestamp { seconds: whole, nanoseconds },
        (true, 0) => Timestamp { seconds: -whole, nanoseconds },
        (true, _) => Timestamp { seconds: -whole - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, value: &[u8]) -> Vec<u8> {
        crate::testing::pax_record(key, value)
    }

    #[test]
    fn times() {
        let table: &[(&str, Option<(i64, u32)>)] = &[
            ("0", Some((0, 0))),
            ("1.5", Some((1, 500_000_000))),
            ("1.", Some((1, 0))),
            ("-1", Some((-1, 0))),
            ("-1.5", Some((-2, 500_000_000))),
            ("-0.000000001", Some((-1, 999_999_999))),
            ("1.1234567899", Some((1, 123_456_789))),
            ("9223372036854775807", Some((i64::MAX, 0))),
            ("-9223372036854775807.9", Some((i64::MIN, 100_000_000))),
            ("9223372036854775808", None),
            ("1e9", None),
            (".5", None),
            ("1.-5", None),
            ("--1", None),
        ];
        for (text, wanted) in table {
            let found = time(text.as_bytes()).ok().flatten().map(|time| (time.seconds, time.nanoseconds));
            assert_eq!(found, *wanted, "{text}");
        }
    }

    #[test]
    fn records_are_strict() {
        for bad in [
            &b"x"[..],
            b"6 a=b\n",
            b"5 a=b\n",
            b"7 a=b\n",
            b"6 a=bX",
            b"0 a=b\n",
            b"1 a=b\n",
            b"06  =b\n",
            b"99999999999999999999 a=b\n",
            b" 6 a=b\n",
            b"5 ab\n",
            b"5 =b\n",
            b"6 a=b\n\0",
        ] {
            let good = bad == b"6 a=b\n";
            assert_eq!(Records::parse(bad).is_ok(), good, "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn the_last_record_wins_and_an_empty_one_unsets() {
        let data = [
            record("path", b"a"),
            record("path", b"b"),
            record("uid", b"5"),
            record("uid", b""),
            record("SCHILY.xattr.user.empty", b""),
            record("comment", b"whatever"),
        ]
        .concat();
        let records = Records::parse(&data).unwrap();
        assert_eq!(records.path.as_deref(), Some(&b"b"[..]));
        assert_eq!(records.uid, None);
        assert_eq!(records.xattrs.len(), 1);
    }

    #[test]
    fn attributes_in_other_forms_are_told() {
        let unread = |keys: &[&str]| {
            let data: Vec<u8> = keys.iter().flat_map(|key| record(key, b"x")).collect();
            let Unread { access_list, attribute, label } = Records::parse(&data).unwrap().unread;
            (access_list, attribute, label)
        };
        assert_eq!(unread(&["comment", "SCHILY.fflags", "LIBARCHIVE.creationtime"]), (false, false, false));
        assert_eq!(unread(&["SCHILY.acl.default"]), (true, false, false));
        assert_eq!(unread(&["LIBARCHIVE.xattr.user.a"]), (false, true, false));
        assert_eq!(unread(&["LIBARCHIVE.xattr.user.a", "SCHILY.xattr.user.a"]), (false, false, false));
        assert_eq!(unread(&["RHT.security.selinux"]), (false, false, true));
    }

    #[test]
    fn global_headers_may_not_change_entries() {
        let refused = [
            "path",
            "linkpath",
            "size",
            "uid",
            "gid",
            "mtime",
            "atime",
            "GNU.sparse.map",
            "SCHILY.xattr.user.a",
        ];
        for key in refused {
            let data = [record("comment", b"x"), record(key, b"1")].concat();
            assert!(matches!(check_global(&data), Err(TarErrorKind::GlobalPax(_))), "{key}");
        }
        check_global(&[record("comment", b"x"), record("uname", b"root")].concat()).unwrap();
        assert!(matches!(check_global(b"7 a=b\n"), Err(TarErrorKind::Pax(_))));
    }

    #[test]
    fn bounds() {
        let parse = |key: &str, value: &[u8]| Records::parse(&record(key, value));
        assert!(parse("path", &[b'a'; 4096]).is_ok());
        assert!(parse("path", &[b'a'; 4097]).is_err());
        assert!(parse("path", b"a\0b").is_err());
        assert!(parse("uid", b"-1").is_err());
        assert!(parse("size", b"9223372036854775808").is_err());
        assert!(parse("SCHILY.xattr.user.a", &[0; 65536]).is_ok());
        assert!(parse("SCHILY.xattr.user.a", &[0; 65537]).is_err());
        assert!(parse(&format!("SCHILY.xattr.{}", "n".repeat(256)), b"").is_err());
        let many: Vec<u8> =
            (0..5).flat_map(|i| record(&format!("SCHILY.xattr.user.{i}"), &[0; 65536])).collect();
        assert!(Records::parse(&many).is_err());
    }
}
