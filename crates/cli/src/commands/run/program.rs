//! What will run, as whom: resolved from the image's own files, without mounting anything.

use std::cell::RefCell;
use std::path::Path;

use anyhow::Context as _;
use plywood_engine::bundle;
use plywood_engine::users::{self, CommandError, ContainerUser, Lookup};
use plywood_image::{ImageConfig, signal};
use plywood_store::{Image, MergedError, MergedTree, Store};
use rustix::fs::FileType;

use super::settings::Settings;
use crate::commands::account;
use crate::context::Context;
use crate::remedy::{Advised, Interrupted};

/// Names at the top of an image, and directories of its `PATH`, that an error shows.
const SHOWN: usize = 12;

/// What will run.
#[derive(Debug)]
pub struct Program {
    /// The image's configuration.
    pub config: ImageConfig,
    /// Who it runs as.
    pub user: ContainerUser,
    /// The arguments, for showing.
    pub argv: Vec<String>,
}

impl Program {
    /// Resolves user and command.
    ///
    /// # Errors
    /// No such user, no such command.
    pub fn resolve(
        context: &Context,
        store: &Store,
        image: &Image,
        settings: &Settings,
    ) -> anyhow::Result<Self> {
        for volume in &settings.volumes {
            let source = &volume.source;
            if let Err(error) = source.metadata() {
                let shown = source.display();
                let what = format!("--volume: volume source {shown}: {error}");
                let remedy = format!(
                    "make it first (`mkdir -p {shown}`), or name a file or directory of the host that is there"
                );
                return Err(Advised::new(what, remedy).into());
            }
        }
        let config =
            plywood_image::config::parse(&image.config).context("reading the image's configuration")?;
        if let Some(name) = config.stop_signal.as_deref().filter(|name| signal::number(name).is_none()) {
            return Err(Advised::new(
                format!("the image's configuration has StopSignal `{name}`, which is no signal"),
                "build the image again with a signal's name or number: STOPSIGNAL SIGTERM",
            )
            .into());
        }
        let merged = store.merged(&image.layer_ids())?;
        volumes_fit(&merged, settings)?;
        readable_accounts(&merged, settings)?;
        let user = account::resolve(&merged, bundle::user_wanted(&config, &settings.overrides))?;
        let argv = bundle::command(&config, &settings.overrides)?;
        let environment = bundle::environment(&config, &settings.overrides, &user)?;
        let workdir = bundle::working_directory(&config, &settings.overrides)?;
        let path = environment.iter().find_map(|variable| variable.strip_prefix("PATH=")).unwrap_or_default();
        find(context, &merged, &argv[0], path, workdir, settings)?;
        Ok(Self { user, argv, config })
    }
}

/// A directory can be mounted on a directory only, and a file on what is none.
fn volumes_fit(merged: &MergedTree, settings: &Settings) -> anyhow::Result<()> {
    for volume in &settings.volumes {
        let destination = volume.destination.as_str();
        // What lies below another volume is not the image's.
        let others = settings.volumes.iter().map(|other| other.destination.as_str());
        if !users::needs_check(destination, others.filter(|other| *other != destination)) {
            continue;
        }
        let Ok(Some(found)) = merged.lookup(destination) else { continue };
        let (source, shown) = (volume.source.is_dir(), volume.source.display());
        let (is, onto) = match (source, found.file_type().is_dir()) {
            (true, false) => ("a directory", "a file"),
            (false, true) => ("a file", "a directory"),
            _ => continue,
        };
        return Err(Advised::new(
            format!("--volume: {shown} is {is}, {destination} in the image is {onto}"),
            "mount directories on directories and files on files, or on what the image does not have",
        )
        .into());
    }
    Ok(())
}

/// The runtime opens these files itself, inside the container: a pipe would keep it waiting for ever.
fn readable_accounts(merged: &MergedTree, settings: &Settings) -> anyhow::Result<()> {
    for file in ["/etc/passwd", "/etc/group"] {
        if !users::needs_check(file, settings.volumes.iter().map(|volume| volume.destination.as_str())) {
            continue;
        }
        let found = merged.lookup(file).map_err(|error| account::unreadable(file, error))?;
        let Some(found) = found.filter(|found| found.file_type() != FileType::RegularFile) else { continue };
        let kind = match found.file_type() {
            FileType::Directory => "a directory",
            FileType::Fifo => "a named pipe",
            FileType::CharacterDevice | FileType::BlockDevice => "a device",
            _ => "something else",
        };
        let remedy = format!("build the image with a regular file there, or mount one: -v FILE:{file}:ro");
        return Err(Advised::new(
            format!("{file} in the image is {kind}, not a regular file; the runtime opens it, and could wait for ever"),
            remedy,
        )
        .into());
    }
    Ok(())
}

fn find(
    context: &Context,
    merged: &MergedTree,
    argv0: &str,
    path: &str,
    workdir: &str,
    settings: &Settings,
) -> anyhow::Result<()> {
    // A volume may bring the command along, and `/proc/self/exe` is one: only the runtime can tell then.
    let mounted =
        || settings.volumes.iter().map(|volume| volume.destination.as_str()).chain(["/proc", "/dev", "/sys"]);
    let failed: RefCell<Option<anyhow::Error>> = RefCell::new(None);
    let lookup = |file: &str| {
        if failed.borrow().is_some() {
            return Lookup::Missing;
        }
        // Where an image is deep in each of hundreds of layers, looking once takes a while.
        if context.cancel.requested() {
            failed.replace(Some(Interrupted("interrupted".to_owned()).into()));
            return Lookup::Missing;
        }
        if !users::needs_check(file, mounted()) {
            return Lookup::Executable;
        }
        match merged.lookup(file) {
            Ok(Some(found)) if found.file_type() != FileType::RegularFile => Lookup::NotAFile,
            Ok(Some(found)) if found.stat.st_mode & 0o111 != 0 => Lookup::Executable,
            Ok(Some(_)) => Lookup::NotExecutable,
            Ok(None) | Err(MergedError::TooManyLinks(_)) => Lookup::Missing,
            Err(error) => {
                failed.replace(Some(error.into()));
                Lookup::Missing
            }
        }
    };
    let found = users::find_command(argv0, path, workdir, &lookup);
    match failed.into_inner() {
        Some(error) => Err(error).context("looking for the command in the image"),
        None => found.map(drop).map_err(|error| advise(&error, merged, settings).into()),
    }
}

fn advise(error: &CommandError, merged: &MergedTree, settings: &Settings) -> Advised {
    let exists = |path: &str| matches!(merged.lookup(path), Ok(Some(_)));
    // Only what would work.
    let look = |directories: &[&str]| {
        let there: Vec<&str> = directories.iter().copied().filter(|directory| exists(directory)).collect();
        let there = if there.is_empty() { "/".to_owned() } else { there.join(" ") };
        if ["/bin/ls", "/usr/bin/ls"].into_iter().any(exists) {
            return format!("`plywood run {} -- ls {there}` shows what there is", settings.image);
        }
        let top = merged.read_dir("/").ok().flatten().unwrap_or_default();
        let top: Vec<String> =
            top.iter().take(SHOWN).map(|entry| format!("/{}", entry.name.to_string_lossy())).collect();
        format!("the image has no `ls`; at its top are {}", top.join(" "))
    };
    let remedy = match error {
        CommandError::NotInPath { path, .. } => {
            format!(
                "give its whole path, or set PATH by --env; {}",
                look(&path.split(':').take(SHOWN).collect::<Vec<_>>())
            )
        }
        CommandError::TooManyDirectories(_) => {
            "give its whole path, or a shorter PATH by --env PATH=/usr/bin:/bin".to_owned()
        }
        CommandError::NotFound(file) => {
            let parent = Path::new(file).parent().and_then(Path::to_str).filter(|parent| !parent.is_empty());
            look(&[parent.unwrap_or("/")])
        }
        CommandError::NotExecutable(_) => {
            "give a file with an execute bit, or an interpreter for it: `-- sh FILE`".to_owned()
        }
    };
    Advised::new(error.to_string(), remedy)
}
