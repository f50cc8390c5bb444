//! The text of `/proc/<pid>/mountinfo`.
//!
//! ```text
//! 36 35 98:0 /mnt1 /mnt2 rw,noatime shared:1 master:2 - ext3 /dev/root rw,errors=continue
//! id parent dev root point options  optional fields   - type source fs-options
//! ```
//!
//! Fields are separated by single blanks and may be empty (a mount without a source); blanks, newlines and
//! backslashes inside them are written as three octal digits. Names are bytes, not necessarily UTF-8.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use super::MountEntry;

/// A line that is not one of mountinfo's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the mount table has no valid {field}")]
pub struct ParseError {
    /// Counted from 1.
    pub line: usize,
    /// What is missing or malformed.
    pub field: &'static str,
}

/// Parses a whole file; lines end with a newline, which a name cannot contain unescaped.
pub fn parse(bytes: &[u8]) -> Result<Vec<MountEntry>, ParseError> {
    bytes
        .split(|byte| *byte == b'\n')
        .enumerate()
        .filter(|(_, line)| !line.is_empty())
        .map(|(index, line)| parse_line(line).map_err(|field| ParseError { line: index + 1, field }))
        .collect()
}

fn parse_line(line: &[u8]) -> Result<MountEntry, &'static str> {
    let mut fields = line.split(|byte| *byte == b' ');
    let mut next = |name| fields.next().ok_or(name);
    let id = number(next("id")?).ok_or("id")?;
    let parent_id = number(next("parent id")?).ok_or("parent id")?;
    let device = device(next("device")?).ok_or("device")?;
    let root = path(next("root")?);
    let mount_point = path(next("mount point")?);
    if !mount_point.is_absolute() {
        return Err("mount point");
    }
    let options = text(next("options")?);
    let mut propagates = false;
    loop {
        match next("separator")? {
            b"-" => break,
            tag => propagates |= tag.starts_with(b"shared:") || tag.starts_with(b"master:"),
        }
    }
    let fs_type = text(next("filesystem type")?);
    let source = text(next("source")?);
    let fs_options = text(next("filesystem options")?);
    let fs_options =
        fs_options.split(',').filter(|option| !matches!(*option, "rw" | "ro")).collect::<Vec<_>>().join(",");
    Ok(MountEntry {
        id,
        parent_id,
        unique_id: None,
        device,
        root,
        mount_point,
        fs_type,
        source,
        options,
        fs_options,
        propagates,
    })
}

fn number(field: &[u8]) -> Option<u64> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

fn device(field: &[u8]) -> Option<(u32, u32)> {
    let (major, minor) = std::str::from_utf8(field).ok()?.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn path(field: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(unescape(field)))
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(&unescape(field)).into_owned()
}

/// `\040` becomes a blank; a backslash not followed by three octal digits below 256 stays as it is.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        if let (b'\\', Some([a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7'])) =
            (*first, tail.first_chunk::<3>())
        {
            plain.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
            rest = &tail[3..];
        } else {
            plain.push(*first);
            rest = tail;
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;

    #[test]
    fn a_line_with_everything() {
        let line = b"36 35 98:0 /mnt1 /mnt\\0402 rw,noatime shared:1 master:2 propagate_from:3 - ext3 \
            /dev/root rw,errors=continue\n";
        let entry = parse(line).unwrap().remove(0);
        assert_eq!((entry.id, entry.parent_id, entry.device), (36, 35, (98, 0)));
        assert_eq!(entry.root, PathBuf::from("/mnt1"));
        assert_eq!(entry.mount_point, PathBuf::from("/mnt 2"));
        assert_eq!(entry.options, "rw,noatime");
        assert_eq!((entry.fs_type.as_str(), entry.source.as_str()), ("ext3", "/dev/root"));
        assert_eq!(entry.fs_options, "errors=continue");
        assert!(entry.propagates);
    }

    #[test]
    fn an_empty_source_does_not_shift_the_fields() {
        let entry = parse(b"1 0 0:1 / / rw - tmpfs  rw,size=4k\n").unwrap().remove(0);
        assert_eq!(entry.source, "");
        assert_eq!(entry.fs_options, "size=4k");
        assert!(!entry.propagates);
    }

    #[test]
    fn the_option_idmapped_is_recognised_as_a_word() {
        let entry = |options: &str| {
            parse(format!("1 0 0:1 / / {options} - ext4 x rw\n").as_bytes()).unwrap().remove(0)
        };
        assert!(entry("rw,idmapped").is_idmapped());
        assert!(!entry("rw,noidmapped").is_idmapped());
    }

    #[test]
    fn broken_lines_name_line_and_field() {
        let good = "1 0 0:1 / / rw - tmpfs none rw\n";
        for (line, field) in [
            ("x 0 0:1 / / rw - tmpfs none rw", "id"),
            ("1 0 01 / / rw - tmpfs none rw", "device"),
            ("1 0 0:1 / a rw - tmpfs none rw", "mount point"),
            ("1 0 0:1 / / rw shared:1", "separator"),
            ("1 0 0:1 / / rw - tmpfs", "source"),
            ("1 0 0:1 / / rw - tmpfs none", "filesystem options"),
        ] {
            let error = parse(format!("{good}{line}\n").as_bytes()).unwrap_err();
            assert_eq!(error, ParseError { line: 2, field }, "{line}");
        }
        assert_eq!(parse(b"").unwrap(), []);
    }

    #[test]
    fn odd_backslashes_stay() {
        assert_eq!(unescape(b"a\\"), b"a\\");
        assert_eq!(unescape(b"\\04"), b"\\04");
        assert_eq!(unescape(b"\\778\\400"), b"\\778\\400");
        assert_eq!(unescape(b"\\134040"), b"\\040");
    }

    /// As the kernel's mangle does it.
    fn escape(name: &[u8]) -> String {
        let mut out = Vec::new();
        for byte in name {
            if matches!(byte, b' ' | b'\t' | b'\n' | b'\\' | b'#') {
                out.extend(format!("\\{byte:03o}").into_bytes());
            } else {
                out.push(*byte);
            }
        }
        // Tests need a str for format!; bytes above 127 are kept out of these names.
        String::from_utf8(out).unwrap()
    }

    proptest! {
        #[test]
        fn names_survive_the_round_trip(
            name in proptest::collection::vec(1u8..128, 0..40),
            source in proptest::collection::vec(1u8..128, 0..20),
        ) {
            let mut point = b"/".to_vec();
            point.extend(&name);
            let line = format!("7 1 0:5 / {} rw - tmpfs {} rw\n", escape(&point), escape(&source));
            let entry = parse(line.as_bytes()).unwrap().remove(0);
            prop_assert_eq!(entry.mount_point.as_os_str(), OsStr::from_bytes(&point));
            prop_assert_eq!(entry.source.as_bytes(), &source[..]);
        }

        #[test]
        fn no_input_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn no_line_of_fields_panics(line in "[0-9:/a-z\\\\ -]{0,80}") {
            let _ = parse(line.as_bytes());
        }
    }
}
