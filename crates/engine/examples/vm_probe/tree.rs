//! The images: a handful of files with all that layers are about (owners, whiteouts, an opaque directory), once as
//! layers, once merged, and once below as many layers as the kernel takes.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::Path;

use plywood_engine::lower::{LowerRef, Lowers, MAX_LOWERS};
use rustix::fs::{CWD, FileType, Mode, XattrFlags};

use crate::Checked;

/// Layers of the small image.
const LAYERS: usize = 4;

/// An image and the name of the case that uses it.
pub(crate) type Named = (&'static str, Lowers);

/// Makes all images below `dir`.
pub(crate) fn make(dir: &Path) -> Checked<Vec<Named>> {
    Ok(vec![
        ("flat", flat(&dir.join("flat"))?),
        ("layers", layers(&dir.join("layers"), LAYERS)?),
        ("limit", layers(&dir.join("limit"), MAX_LOWERS)?),
    ])
}

fn flat(parent: &Path) -> Checked<Lowers> {
    let root = parent.join("0/fs");
    fs::create_dir_all(&root)?;
    bottom(&root)?;
    fs::remove_file(root.join("gone"))?;
    fs::remove_file(root.join("opaque/hidden"))?;
    fs::write(root.join("opaque/shown"), "shown")?;
    top(&root)?;
    Ok(Lowers::flat(parent, LowerRef::new("0/fs")?)?)
}

/// The topmost layer is 0; what makes up the image lies in the first two and the last two, and each has a file of its
/// own.
fn layers(parent: &Path, count: usize) -> Checked<Lowers> {
    for n in 0..count {
        let root = parent.join(format!("{n}/fs"));
        fs::create_dir_all(&root)?;
        fs::write(root.join(format!("layer-{n}")), n.to_string())?;
    }
    let root = |n: usize| parent.join(format!("{n}/fs"));
    bottom(&root(count - 1))?;
    rustix::fs::mknodat(CWD, root(count - 2).join("gone"), FileType::CharacterDevice, Mode::empty(), 0)?;
    let opaque = root(1).join("opaque");
    fs::create_dir(&opaque)?;
    rustix::fs::setxattr(&opaque, "trusted.overlay.opaque", b"y", XattrFlags::empty())?;
    fs::write(opaque.join("shown"), "shown")?;
    top(&root(0))?;
    let names = (0..count).map(|n| LowerRef::new(format!("{n}/fs"))).collect::<Result<_, _>>()?;
    Ok(Lowers::layers(parent, names)?)
}

fn bottom(root: &Path) -> Checked {
    for name in ["file", "gone", "removed"] {
        fs::write(root.join(name), name)?;
    }
    fs::create_dir(root.join("users"))?;
    fs::write(root.join("users/one"), "one")?;
    chown(root.join("users/one"), Some(1000), Some(1001))?;
    fs::write(root.join("suid"), "suid")?;
    fs::set_permissions(root.join("suid"), fs::Permissions::from_mode(0o4755))?;
    fs::create_dir(root.join("opaque"))?;
    fs::write(root.join("opaque/hidden"), "hidden")?;
    symlink("file", root.join("link"))?;
    Ok(())
}

/// The topmost layer gives the image its root directory.
fn top(root: &Path) -> Checked {
    fs::write(root.join("top"), "top")?;
    chown(root.join("top"), Some(5), Some(6))?;
    fs::set_permissions(root, fs::Permissions::from_mode(0o755))?;
    Ok(())
}
