//! Archives written by GNU tar, in each of its formats, compared with the files it read.

use std::fs;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use plywood_image::tar::{EntryType, Header};

use super::{expand, read_all};

/// A scratch directory, gone when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }
}

impl Drop for Scratch {
    #[expect(
        clippy::disallowed_methods,
        reason = "nothing is mounted below: the test made these plain files itself"
    )]
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn tar(dir: &Path, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new("tar")
        .args(["--create", "--file=-", "--sort=name", "--numeric-owner", "--directory"])
        .arg(dir)
        .args(arguments)
        .arg(".")
        .output()
        .expect("this test runs GNU tar: apt-get install tar");
    assert!(output.status.success(), "tar {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn populate(dir: &Path) {
    fs::write(dir.join("empty"), b"").unwrap();
    fs::write(dir.join("file"), vec![b'x'; 1_000_000]).unwrap();
    fs::hard_link(dir.join("file"), dir.join("hard")).unwrap();
    symlink("../../etc/passwd", dir.join("symlink")).unwrap();
    let deep = dir.join("d".repeat(90)).join("e".repeat(90)).join("f".repeat(90));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("g".repeat(200)), b"deep").unwrap();
    symlink("t".repeat(300), deep.join("long-link")).unwrap();
    fs::write(dir.join(std::ffi::OsStr::from_bytes(b"not\xffutf8\n")), b"bytes").unwrap();
    let old = fs::File::create(dir.join("old")).unwrap();
    let before_epoch = std::time::UNIX_EPOCH - std::time::Duration::from_millis(1_500);
    old.set_modified(before_epoch).unwrap();
}

/// Compares an entry with the file it was made from.
fn compare(dir: &Path, header: &Header, data: &[u8], nanoseconds: bool) {
    let path = dir.join(std::ffi::OsStr::from_bytes(&header.path));
    let meta = fs::symlink_metadata(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(header.mode & 0o7777, meta.mode() & 0o7777, "{}", path.display());
    assert_eq!((header.uid, header.gid), (meta.uid().into(), meta.gid().into()));
    assert_eq!(header.mtime.seconds, meta.mtime(), "{}", path.display());
    if nanoseconds {
        assert_eq!(i64::from(header.mtime.nanoseconds), meta.mtime_nsec(), "{}", path.display());
    }
    match header.entry_type {
        EntryType::File => assert!(expand(header, data) == fs::read(&path).unwrap(), "{}", path.display()),
        EntryType::Directory => assert!(meta.is_dir()),
        EntryType::Symlink => assert_eq!(header.link, fs::read_link(&path).unwrap().as_os_str().as_bytes()),
        EntryType::HardLink => {
            let target = fs::metadata(dir.join(std::ffi::OsStr::from_bytes(&header.link))).unwrap();
            assert_eq!(target.ino(), meta.ino());
        }
        other => panic!("{}: {other:?}", path.display()),
    }
}

#[test]
fn every_format_of_gnu_tar() {
    let scratch = Scratch::new("formats");
    populate(&scratch.0);
    // The root and six names in it; three directories, a file and a link in depth.
    let count = 7 + 5;
    for (format, nanoseconds) in [("gnu", false), ("oldgnu", false), ("posix", true)] {
        let bytes = tar(&scratch.0, &[&format!("--format={format}")]);
        let entries = read_all(&bytes).unwrap_or_else(|error| panic!("{format}: {error}"));
        assert_eq!(entries.len(), count, "{format}");
        for (header, data) in &entries {
            compare(&scratch.0, header, data, nanoseconds);
        }
    }
    // The older formats hold neither long names nor times before the epoch.
    for format in ["ustar", "v7"] {
        let exclude = ["--exclude=./ddd*", "--exclude=./old"];
        let bytes = tar(&scratch.0, &[&format!("--format={format}"), exclude[0], exclude[1]]);
        let entries = read_all(&bytes).unwrap_or_else(|error| panic!("{format}: {error}"));
        assert_eq!(entries.len(), 6, "{format}");
        for (header, data) in &entries {
            compare(&scratch.0, header, data, false);
        }
    }
}

#[test]
fn every_sparse_format_of_gnu_tar() {
    let scratch = Scratch::new("sparse");
    let holes = |name: &str, size: u64, runs: &[u64]| {
        let file = fs::File::create(scratch.0.join(name)).unwrap();
        file.set_len(size).unwrap();
        for at in runs {
            file.write_all_at(b"data", *at).unwrap();
        }
    };
    let many: Vec<u64> = (0..60).map(|i| i * 131_072 + 5).collect();
    holes("many", 10_000_000, &many);
    holes("all-hole", 3_000_000, &[]);
    holes("tail", 2_000_000, &[1_999_996]);
    fs::write(scratch.0.join("zz-plain"), b"after the sparse ones").unwrap();

    for options in [
        &["--format=gnu"][..],
        &["--format=posix", "--sparse-version=0.0"],
        &["--format=posix", "--sparse-version=0.1"],
        &["--format=posix", "--sparse-version=1.0"],
    ] {
        let options = [&["--sparse", "--hole-detection=raw"], options].concat();
        let bytes = tar(&scratch.0, &options);
        assert!(bytes.len() < 2_000_000, "{options:?}: tar stored the holes");
        let entries = read_all(&bytes).unwrap_or_else(|error| panic!("{options:?}: {error}"));
        assert_eq!(entries.len(), 5, "{options:?}");
        for (header, data) in &entries {
            compare(&scratch.0, header, data, false);
        }
        let sparse = entries.iter().filter(|(header, _)| header.sparse.is_some()).count();
        assert_eq!(sparse, 3, "{options:?}");
    }
}

#[test]
fn appended_archives_end_where_tar_says() {
    let scratch = Scratch::new("append");
    fs::write(scratch.0.join("a"), b"one").unwrap();
    let archive = scratch.0.with_extension("tar");
    fs::write(&archive, tar(&scratch.0, &[])).unwrap();
    let status = Command::new("tar")
        .arg("--append")
        .arg("-f")
        .arg(&archive)
        .arg("-C")
        .arg(&scratch.0)
        .arg("a")
        .status();
    assert!(status.unwrap().success());
    let mut file = fs::OpenOptions::new().write(true).open(&archive).unwrap();
    file.seek(SeekFrom::End(0)).unwrap();
    file.write_all(b"trailing rubbish").unwrap();
    let bytes = fs::read(&archive).unwrap();
    fs::remove_file(&archive).unwrap();
    let names: Vec<_> = read_all(&bytes).unwrap().into_iter().map(|(header, _)| header.path).collect();
    assert_eq!(names, [&b"./"[..], b"./a", b"a"]);
}
