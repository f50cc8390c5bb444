//! What a process of the container sees and does: it is root of its user namespace, and the rootfs is its working
//! directory.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::thread::LinkNameSpaceType;

use crate::Checked;

/// Ids the files must have seen from outside or on disk, as the container has them; `None` where it removed one.
pub(crate) const AFTERWARDS: [(&str, Option<(u32, u32)>); 7] = [
    ("file", Some((0, 0))),
    ("users/one", Some((1000, 1001))),
    ("top", Some((7, 8))),
    ("new", Some((0, 0))),
    ("moved", Some((0, 0))),
    ("moved/deep", Some((9, 10))),
    ("removed", None),
];

/// Runs [`check`] as root of `user_ns` in `rootfs`; the error is what it said.
pub(crate) fn run(user_ns: OwnedFd, rootfs: &Path) -> Checked {
    let output = Command::new(std::env::current_exe()?)
        .arg("join")
        .stdin(Stdio::from(user_ns))
        .current_dir(rootfs)
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    Err(format!("in the container: {}", String::from_utf8_lossy(&said).trim()).into())
}

/// A process that was only just started has one thread, as entering a user namespace demands.
pub(crate) fn join() -> Checked {
    let exe = std::env::current_exe()?;
    rustix::thread::move_into_link_name_space(std::io::stdin().as_fd(), Some(LinkNameSpaceType::User))?;
    Err(Command::new(exe).arg("inside").uid(0).gid(0).exec().into())
}

/// Looks at everything, then changes something of every kind.
pub(crate) fn check() -> Checked {
    let me = rustix::process::geteuid().as_raw();
    if me != 0 {
        return Err(format!("its user is {me}").into());
    }
    owned("file", (0, 0))?;
    owned("link", (0, 0))?;
    owned("users", (0, 0))?;
    owned("users/one", (1000, 1001))?;
    owned("top", (5, 6))?;
    owned(".", (0, 0))?;
    let mode = fs::metadata("suid")?.mode() & 0o7777;
    if mode != 0o4755 {
        return Err(format!("suid has mode {mode:o}").into());
    }
    if Path::new("gone").symlink_metadata().is_ok() {
        return Err("a file is there that a layer removed".into());
    }
    if names("opaque")? != ["shown"] {
        return Err(format!("the opaque directory holds {:?}", names("opaque")?).into());
    }

    File::options().append(true).open("users/one")?.write_all(b" and more")?;
    owned("users/one", (1000, 1001))?;
    if fs::read("users/one")? != b"one and more" {
        return Err("what was appended to is not what was there".into());
    }
    chown("top", Some(7), Some(8))?;
    owned("top", (7, 8))?;
    fs::write("new", "new")?;
    owned("new", (0, 0))?;
    fs::create_dir("made")?;
    fs::write("made/deep", "deep")?;
    chown("made/deep", Some(9), Some(10))?;
    fs::rename("made", "moved")?;
    owned("moved/deep", (9, 10))?;
    fs::remove_file("removed")?;
    if names(".")?.iter().any(|name| name == "removed") {
        return Err("a removed file is still listed".into());
    }
    Ok(())
}

fn owned(path: &str, ids: (u32, u32)) -> Checked {
    let found = fs::symlink_metadata(path).map_err(|error| format!("{path}: {error}"))?;
    let found = (found.uid(), found.gid());
    if found == ids { Ok(()) } else { Err(format!("{path} belongs to {found:?} instead of {ids:?}").into()) }
}

fn names(dir: &str) -> Checked<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}
