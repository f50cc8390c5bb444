//! Archives no honest tool writes, and the readers' disagreements among the honest ones.

use std::error::Error as _;
use std::io::{BufRead as _, Read as _};

use plywood_image::limits;
use plywood_image::tar::{EntryType, Reader, TarErrorKind, Timestamp};
use plywood_image::testing::{RawHeader, TarBuilder, pax_record};

use super::{expand, read_all};

fn error(bytes: &[u8]) -> String {
    read_all(bytes).expect_err("an error").to_string()
}

fn file(edit: impl FnOnce(&mut RawHeader)) -> Vec<u8> {
    let mut header = RawHeader::new(b'0');
    header.name("f");
    edit(&mut header);
    TarBuilder::new().entry(&header, b"").finish()
}

#[test]
fn the_end_of_an_archive() {
    let entry = TarBuilder::new().file("a", b"x").unfinished();
    let zero = [0; 512];
    assert_eq!(read_all(b"").unwrap().len(), 0);
    assert_eq!(read_all(&entry).unwrap().len(), 1, "no end blocks");
    assert_eq!(read_all(&[&entry[..], &zero].concat()).unwrap().len(), 1, "one end block");
    let appended = [&entry[..], &zero, &zero, &entry, b"rubbish"].concat();
    assert_eq!(read_all(&appended).unwrap().len(), 1, "what follows the end is ignored");
    let lone = [&entry[..], &zero, &entry].concat();
    assert!(error(&lone).contains("a zero block is followed by more entries"));

    let mut reader = Reader::new(&appended[..]);
    while reader.next_entry().unwrap().is_some() {}
    assert!(reader.next_entry().unwrap().is_none());
    assert!(reader.finish().unwrap().is_empty(), "drained");
}

#[test]
fn truncation_at_every_byte_is_an_error_or_a_clean_end() {
    let whole = TarBuilder::new()
        .pax("path", "renamed")
        .xattr("user.a", b"b")
        .file("a", [b'x'; 600])
        .extension(b'L', &[b'n'; 150])
        .dir("short", 0o755)
        .extension(b'g', &pax_record("comment", b"1.5"))
        .symlink("s", "a")
        .finish();
    let names = read_all(&whole).unwrap().len();
    assert_eq!(names, 3);
    for length in 0..whole.len() {
        match read_all(&whole[..length]) {
            Ok(entries) => {
                assert_eq!(length % 512, 0, "{length}");
                assert!(entries.len() <= names);
            }
            Err(error) => {
                let expected = matches!(error.kind(), TarErrorKind::Truncated | TarErrorKind::Dangling);
                assert!(expected, "{length}: {error}");
            }
        }
    }
}

#[test]
fn headers_must_sum_up() {
    let mut bytes = TarBuilder::new().file("a", b"").finish();
    bytes[0] ^= 1;
    assert!(error(&bytes).contains("tar stream at byte 0: header checksum mismatch"));
    assert!(error(&[b'x'; 512]).contains("checksum"));

    // Signed sums, as very old tars wrote them for names that are not ASCII.
    let mut header = RawHeader::new(b'0');
    header.name(b"\xff\xfe");
    let mut block = header.seal();
    let sum: i64 = block
        .iter()
        .enumerate()
        .map(|(i, b)| if (148..156).contains(&i) { 32 } else { i64::from(*b as i8) })
        .sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    assert_eq!(read_all(&block).unwrap()[0].0.path, b"\xff\xfe");
}

#[test]
fn numbers_must_be_numbers() {
    let table: [(usize, usize, &[u8], &str); 6] = [
        (100, 8, b"00009\0\0\0", "mode"),
        (108, 8, b"\xff\xff\xff\xff\xff\xff\xff\xff", "uid"),
        (116, 8, b"abc\0\0\0\0\0", "gid"),
        (124, 12, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "size"),
        (124, 12, b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff", "size"),
        (136, 12, b"12:30:00\0\0\0\0", "mtime"),
    ];
    for (offset, _, bytes, name) in table {
        let message = error(&file(|header| {
            header.bytes(offset, bytes);
        }));
        assert!(
            message.contains(&format!("tar entry \"f\" at byte 0: bad number in field {name}")),
            "{message}"
        );
    }
    let huge = file(|header| {
        header.binary(124, 12, i64::MAX);
    });
    assert!(matches!(read_all(&huge).unwrap_err().kind(), TarErrorKind::Truncated));
}

#[test]
fn times_before_the_epoch_and_pax_overrides() {
    let mut header = RawHeader::new(b'0');
    header.name("short").mtime(-7).bytes(108, b"garbage\0");
    let bytes = TarBuilder::new()
        .pax("path", "long/name")
        .pax("uid", "4294967295")
        .pax("mtime", "-1.25")
        .pax("atime", "3.000000001")
        .pax("size", "2")
        .pax("uname", "nobody")
        .pax("hdrcharset", "BINARY")
        .entry(&header, b"hi")
        .entry(header.clone().octal(108, 8, 5), b"")
        .finish();
    let entries = read_all(&bytes).unwrap();
    let (first, data) = &entries[0];
    assert_eq!(
        (first.path.as_slice(), first.uid, data.as_slice()),
        (&b"long/name"[..], 4_294_967_295, &b"hi"[..])
    );
    assert_eq!(first.mtime, Timestamp { seconds: -2, nanoseconds: 750_000_000 });
    assert_eq!(first.atime, Some(Timestamp { seconds: 3, nanoseconds: 1 }));
    let (second, _) = &entries[1];
    assert_eq!((second.path.as_slice(), second.uid, second.mtime.seconds), (&b"short"[..], 5, -7));
}

/// Owners and times of global headers were applied, which Go's reader and so containerd does not do.
#[test]
fn global_headers_that_would_count_are_refused() {
    let harmless = [pax_record("comment", b"c"), pax_record("uname", b"me")].concat();
    let bytes = TarBuilder::new().extension(b'g', &harmless).file("a", b"").finish();
    assert_eq!(read_all(&bytes).unwrap().len(), 1);
    for (key, what) in [("path", "a path"), ("uid", "an owner"), ("gid", "an owner"), ("mtime", "a time")] {
        let bytes = TarBuilder::new().extension(b'g', &pax_record(key, b"7")).file("a", b"").finish();
        let expected = format!("a global PAX header sets {what}: readers disagree");
        assert!(error(&bytes).contains(&expected), "{key}: {}", error(&bytes));
    }
}

#[test]
fn gnu_long_names() {
    let long = vec![b'n'; 300];
    let bytes = TarBuilder::new()
        .extension(b'K', &[&long[..], b"\0"].concat())
        .extension(b'L', &[&long[..], b"\0"].concat())
        .symlink("short", "short")
        .finish();
    let entries = read_all(&bytes).unwrap();
    assert_eq!((&entries[0].0.path, &entries[0].0.link), (&long, &long));

    let both = TarBuilder::new().extension(b'L', b"a\0").pax("path", "b").file("c", b"").finish();
    assert!(error(&both).contains("the name is given both by a GNU and by a PAX header"));
    let too_long = TarBuilder::new().extension(b'L', &[b'n'; 4098]).file("c", b"").finish();
    let expected =
        format!("\"{}...\" at byte 0: length of a name exceeds the limit of 4097", "n".repeat(100));
    assert!(error(&too_long).contains(&expected), "{}", error(&too_long));
    let large = TarBuilder::new().xattr("user.large", vec![0; 70_000]).file("d/c", b"").finish();
    let message = error(&large);
    assert!(message.contains("d/c\" at byte 0: value of an extended attribute"), "{message}");
}

#[test]
fn extensions_need_an_entry_and_stay_small() {
    for flag in [b'x', b'L', b'K'] {
        let data = pax_record("path", b"p");
        assert!(
            error(&TarBuilder::new().extension(flag, &data).finish()).contains("not followed by an entry")
        );
    }
    let twice = TarBuilder::new()
        .extension(b'x', &pax_record("path", b"a"))
        .extension(b'x', &pax_record("path", b"b"))
        .file("c", b"")
        .finish();
    assert!(error(&twice).contains("two headers for one entry"));
    // Announced, not sent: nothing may be allocated for it.
    let mut header = RawHeader::new(b'x');
    header.size(limits::PAX_BYTES + 1);
    assert!(error(&header.seal()).contains("size of a PAX header exceeds"));
    header.size(1 << 40);
    assert!(error(&header.seal()).contains("size of a PAX header exceeds"));
}

/// The data of a file named like a directory was read as headers: an archive in an archive, which other readers do not
/// see.
#[test]
fn what_only_some_readers_see_is_refused() {
    let hidden = TarBuilder::new().file("hidden", b"").unfinished();
    let cases = [
        (b'0', "dir/", "whether a file whose name ends in \"/\" is a directory"),
        (b'7', "dir/", "whether a file whose name ends in \"/\" is a directory"),
        (0, "dir/", "whether data follows"),
        (b'1', "link", "whether data follows"),
        (b'2', "link", "whether data follows"),
        (b'3', "device", "whether data follows"),
        (b'4', "device", "whether data follows"),
        (b'5', "dir", "whether data follows"),
        (b'6', "fifo", "whether data follows"),
    ];
    for (flag, name, expected) in cases {
        let mut header = RawHeader::new(flag);
        header.name(name).link("a").device(1, 3).size(hidden.len() as u64);
        let by_field = TarBuilder::new().file("a", b"").entry(&header, &hidden).finish();
        let size = hidden.len().to_string();
        let by_pax =
            TarBuilder::new().file("a", b"").pax("size", &size).entry(header.size(0), &hidden).finish();
        for bytes in [by_field, by_pax] {
            let error = error(&bytes);
            let named = format!("tar entry \"{name}\" at byte ");
            assert!(error.starts_with(&named) && error.contains(expected), "{}: {error}", char::from(flag));
        }
    }
    let mut empty = RawHeader::new(b'0');
    empty.name("dir/");
    assert!(error(&TarBuilder::new().entry(&empty, b"").finish()).contains("is a directory"));
}

#[test]
fn entries_without_data() {
    let mut link = RawHeader::new(b'1');
    link.name("l").link("a");
    let mut slashed = RawHeader::new(0);
    slashed.name("old/");
    let mut other = RawHeader::new(b'Q');
    other.name("q").size(3);
    // What counts is the size of the PAX header.
    let mut dir = RawHeader::new(b'5');
    dir.name("d").size(99);
    let bytes = TarBuilder::new()
        .entry(&link, b"")
        .pax("size", "0")
        .entry(&dir, b"")
        .entry(&slashed, b"")
        .entry(&other, b"xyz")
        .file("last", b"data")
        .finish();
    let entries = read_all(&bytes).unwrap();
    let types: Vec<_> = entries.iter().map(|(header, _)| (header.entry_type, header.size)).collect();
    assert_eq!(
        types,
        [
            (EntryType::HardLink, 0),
            (EntryType::Directory, 0),
            (EntryType::Directory, 0),
            (EntryType::Other(b'Q'), 3),
            (EntryType::File, 4),
        ]
    );
}

#[test]
fn formats_place_names_differently() {
    let named = |edit: &dyn Fn(&mut RawHeader)| {
        let mut header = RawHeader::new(b'0');
        header.name("name").bytes(345, b"prefix");
        edit(&mut header);
        let bytes = TarBuilder::new().entry(&header, b"").finish();
        String::from_utf8(read_all(&bytes).unwrap()[0].0.path.clone()).unwrap()
    };
    assert_eq!(named(&|_| {}), "prefix/name");
    assert_eq!(named(&|h| _ = h.bytes(257, b"\0\0\0\0\0\0\0\0")), "name", "v7");
    assert_eq!(named(&|h| _ = h.gnu().bytes(345, b"0000000001\0")), "name", "GNU keeps atime there");
    let star = [b'p'; 131];
    let full = named(&|h| _ = h.bytes(345, &star).bytes(476, b"00000000001\0").bytes(508, b"tar\0"));
    assert_eq!(full, format!("{}/name", "p".repeat(131)));
    let long = named(&|h| _ = h.name([b'n'; 100]).bytes(345, &[b'p'; 155]));
    assert_eq!(long, format!("{}/{}", "p".repeat(155), "n".repeat(100)));
}

#[test]
fn devices() {
    let mut header = RawHeader::new(b'3');
    header.name("null").device(1, 3);
    let entries = read_all(&TarBuilder::new().entry(&header, b"").finish()).unwrap();
    assert_eq!((entries[0].0.device.major, entries[0].0.device.minor), (1, 3));
    header.bytes(257, &[0; 8]);
    let entries = read_all(&TarBuilder::new().entry(&header, b"").finish()).unwrap();
    assert_eq!(entries[0].0.entry_type, EntryType::Other(b'3'), "v7 has no device numbers");
}

/// An old GNU sparse header with up to four segments.
fn sparse_header(segments: &[(u64, u64)], stored: u64, real: u64) -> RawHeader {
    let mut header = RawHeader::new(b'S');
    header.name("sparse").gnu().size(stored).octal(483, 12, real);
    for (slot, (offset, length)) in segments.iter().enumerate() {
        header.octal(386 + 24 * slot, 12, *offset).octal(398 + 24 * slot, 12, *length);
    }
    header
}

#[test]
fn old_sparse_files() {
    let mut header = sparse_header(&[(0, 2), (10, 3), (20, 1)], 7, 1000);
    let mut extension = RawHeader([0; 512]);
    extension.octal(0, 12, 30).octal(12, 12, 1).octal(24, 12, 1000).octal(36, 12, 0);
    header.bytes(482, b"\x01");
    let bytes =
        TarBuilder::new().raw(&header.seal()).raw(&extension.0).data(b"aabbbcd").file("after", b"x").finish();
    let entries = read_all(&bytes).unwrap();
    let content = expand(&entries[0].0, &entries[0].1);
    assert_eq!(
        (content.len(), &content[..31]),
        (1000, &b"aa\0\0\0\0\0\0\0\0bbb\0\0\0\0\0\0\0c\0\0\0\0\0\0\0\0\0d"[..])
    );
    assert_eq!(entries[1].0.path, b"after");
}

#[test]
fn sparse_maps_must_make_sense() {
    let table = [
        (sparse_header(&[(10, 5), (0, 5)], 10, 100), "overlap or are out of order"),
        (sparse_header(&[(0, 5), (4, 5)], 10, 100), "overlap or are out of order"),
        (sparse_header(&[(0, 5)], 5, 4), "beyond the file"),
        (sparse_header(&[(101, 0)], 0, 100), "beyond the file"),
        (sparse_header(&[(0, 5)], 4, 100), "do not add up"),
        (sparse_header(&[(0, 4)], 5, 100), "do not add up"),
    ];
    for (header, wanted) in table {
        let message = error(&TarBuilder::new().entry(&header, &[b'x'; 16]).finish());
        assert!(message.contains(wanted), "{wanted}: {message}");
    }
    let mut far = sparse_header(&[(0, 0)], 0, 0);
    far.binary(386, 12, i64::MAX).binary(398, 12, i64::MAX);
    assert!(error(&TarBuilder::new().entry(&far, b"").finish()).contains("largest file"));

    let pax = |records: &[(&str, &str)], data: &[u8]| {
        let mut builder = TarBuilder::new();
        for (key, value) in records {
            builder = builder.pax(&format!("GNU.sparse.{key}"), value);
        }
        builder.file("f", data).finish()
    };
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a [u8], &'a str);
    let table: [Case<'_>; 12] = [
        (&[("map", "0,1")], b"x", "size of the file is missing"),
        (&[("size", "9"), ("map", "0")], b"", "offset without a length"),
        (&[("size", "9"), ("map", "0,1,")], b"x", "offset without a length"),
        (&[("size", "9"), ("map", "0,x")], b"x", "not a decimal"),
        (&[("size", "9"), ("map", "0,99999999999999999999")], b"x", "too large"),
        (&[("size", "9"), ("offset", "0")], b"", "offset without a length"),
        (&[("size", "9"), ("numbytes", "0")], b"", "length without an offset"),
        (&[("size", "9"), ("offset", "0"), ("offset", "1")], b"", "offset without a length"),
        (&[("major", "2"), ("minor", "0"), ("realsize", "9")], b"", "unknown version"),
        (&[("major", "1"), ("minor", "0"), ("realsize", "9")], b"", "longer than the stored data"),
        (&[("major", "1"), ("minor", "0"), ("realsize", "9")], &[b'1'; 512], "too large"),
        (&[("major", "1"), ("minor", "0"), ("realsize", "9"), ("map", "0,0")], &[0; 512], "two maps"),
    ];
    for (records, data, wanted) in table {
        let message = error(&pax(records, data));
        assert!(message.contains(wanted), "{wanted}: {message}");
    }
    let mut many = format!("{}\n", limits::SPARSE_SEGMENTS + 1).into_bytes();
    many.resize(512, b'\n');
    let message = error(&pax(&[("major", "1"), ("minor", "0"), ("realsize", "9")], &many));
    assert!(message.contains("segments of a sparse file exceeds the limit of 131072"), "{message}");
    let dir = TarBuilder::new().pax("GNU.sparse.size", "1").dir("d", 0o755).finish();
    assert!(error(&dir).contains("belongs to no file"));
}

#[test]
fn data_is_limited_to_its_entry() {
    let bytes =
        TarBuilder::new().file("a", b"first").file("b", vec![b'z'; 700_000]).file("c", b"last").finish();
    let mut reader = Reader::new(&bytes[..]);
    reader.next_entry().unwrap();
    let mut data = reader.data();
    assert_eq!(data.fill_buf().unwrap(), b"first");
    data.consume(2);
    assert_eq!(data.remaining(), 3);
    data.consume(usize::MAX);
    assert_eq!((data.remaining(), data.fill_buf().unwrap()), (0, &b""[..]));

    reader.next_entry().unwrap();
    let mut half = vec![0; 500_000];
    reader.data().read_exact(&mut half).unwrap();
    assert!(half.iter().all(|byte| *byte == b'z'));
    assert_eq!(reader.next_entry().unwrap().unwrap().path, b"c", "the rest was skipped");
    let mut last = String::new();
    reader.data().read_to_string(&mut last).unwrap();
    assert_eq!(last, "last");
}

/// A source that fails after some bytes.
struct Failing<'a>(&'a [u8]);

impl std::io::Read for Failing<'_> {
    fn read(&mut self, target: &mut [u8]) -> std::io::Result<usize> {
        match self.0.read(target)? {
            0 => Err(std::io::Error::other("bad gzip")),
            count => Ok(count),
        }
    }
}

#[test]
fn a_failing_source_is_the_source_of_the_error() {
    let bytes = TarBuilder::new().file("a", b"x").unfinished();
    let mut reader = Reader::new(Failing(&bytes));
    reader.next_entry().unwrap();
    let error = reader.next_entry().unwrap_err();
    assert_eq!(error.to_string(), "tar stream at byte 1024: cannot read the stream");
    assert_eq!(error.source().unwrap().to_string(), "bad gzip");

    let mut reader = Reader::new(Failing(&bytes[..512]));
    reader.next_entry().unwrap();
    assert_eq!(reader.data().read(&mut [0; 4]).unwrap_err().to_string(), "bad gzip");
}

#[test]
fn after_an_error_there_is_nothing() {
    let bytes = [&[b'x'; 512][..], &TarBuilder::new().file("a", b"").finish()].concat();
    let mut reader = Reader::new(&bytes[..]);
    assert!(reader.next_entry().is_err());
    assert!(reader.next_entry().unwrap().is_none());
}
