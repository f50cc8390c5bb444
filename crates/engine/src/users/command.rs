//! Finding the file a container's command names, without entering the image.

use std::collections::HashSet;

/// The most directories of a `PATH` that are searched. Each is a walk through all layers, and an image's `PATH` can name
/// tens of thousands.
pub const MAX_DIRECTORIES: usize = 1024;

/// The longest path the kernel takes, its NUL included.
const PATH_MAX: usize = 4096;

/// What a path inside the image is, symbolic links followed within the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// A regular file with an execute bit.
    Executable,
    /// A regular file without an execute bit.
    NotExecutable,
    /// Something that can never be executed: a directory, a device.
    NotAFile,
    /// Nothing.
    Missing,
}

/// Why a command cannot be started in the image.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// No file of that name in any directory of `PATH`.
    #[error("no command `{name}` in the image: searched {}", shown(path))]
    NotInPath {
        /// The command.
        name: String,
        /// The container's `PATH`.
        path: String,
    },
    /// More directories in `PATH` than are searched, and the command in none of those that were.
    #[error("no command `{0}` in the first {MAX_DIRECTORIES} directories of PATH; no more are searched")]
    TooManyDirectories(String),
    /// A command with a slash, and no such file.
    #[error("no command `{0}` in the image")]
    NotFound(String),
    /// The file exists and cannot be executed.
    #[error("`{0}` in the image is not an executable file")]
    NotExecutable(String),
}

/// The beginning of a `PATH`.
fn shown(path: &str) -> String {
    const CHARACTERS: usize = 300;
    match path.char_indices().nth(CHARACTERS) {
        Some((end, _)) => format!("{}...", &path[..end]),
        None => path.to_owned(),
    }
}

impl CommandError {
    /// The exit code a shell gives for this: 127 when nothing is found, 126 when it cannot be executed.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::NotInPath { .. } | Self::TooManyDirectories(_) | Self::NotFound(_) => 127,
            Self::NotExecutable(_) => 126,
        }
    }
}

/// The absolute path inside the image that `argv0` names.
///
/// With a slash it is taken relative to `workdir`; without, the directories of `path` (colon-separated; an empty one
/// means `workdir`) are searched in order and the first executable file wins. `lookup` answers for absolute paths, and is
/// asked at most [`MAX_DIRECTORIES`] times.
pub fn find_command(
    argv0: &str,
    path: &str,
    workdir: &str,
    lookup: &dyn Fn(&str) -> Lookup,
) -> Result<String, CommandError> {
    if argv0.contains('/') {
        let file = join(workdir, argv0);
        return match lookup(&file) {
            Lookup::Executable => Ok(file),
            Lookup::NotExecutable | Lookup::NotAFile => Err(CommandError::NotExecutable(argv0.to_owned())),
            Lookup::Missing => Err(CommandError::NotFound(argv0.to_owned())),
        };
    }
    let mut denied = None;
    let mut asked = 0;
    let mut seen = HashSet::new();
    for directory in path.split(':').filter(|directory| seen.insert(*directory)) {
        let file = join(workdir, &format!("{}/{argv0}", if directory.is_empty() { "." } else { directory }));
        if file.len() >= PATH_MAX {
            continue;
        }
        if asked == MAX_DIRECTORIES {
            return Err(CommandError::TooManyDirectories(argv0.to_owned()));
        }
        asked += 1;
        match lookup(&file) {
            Lookup::Executable => return Ok(file),
            Lookup::NotExecutable => denied = denied.or(Some(file)),
            Lookup::NotAFile | Lookup::Missing => {}
        }
    }
    match denied {
        Some(file) => Err(CommandError::NotExecutable(file)),
        None => Err(CommandError::NotInPath { name: argv0.to_owned(), path: path.to_owned() }),
    }
}

/// Whether looking into the image tells anything about `file`: not below a volume or one of the runtime's own mounts.
pub fn needs_check<'a>(file: &str, mut mounted: impl Iterator<Item = &'a str>) -> bool {
    !mounted.any(|mount| {
        file.strip_prefix(mount)
            .is_some_and(|rest| mount.ends_with('/') || rest.is_empty() || rest.starts_with('/'))
    })
}

/// An absolute path without `.` and empty parts; `..` stays, for the image's symbolic links decide what it means.
fn join(workdir: &str, file: &str) -> String {
    let mut joined = String::new();
    let base = if file.starts_with('/') { "" } else { workdir };
    for part in base.split('/').chain(file.split('/')).filter(|part| !part.is_empty() && *part != ".") {
        joined.push('/');
        joined.push_str(part);
    }
    if joined.is_empty() { "/".to_owned() } else { joined }
}
