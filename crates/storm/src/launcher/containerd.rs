//! A real containerd, by its socket: any snapshotter, each container with an id mapping of its own or none at all.
//!
//! Two parts of a launch can be measured:
//!
//! - [`Part::Task`], what a client of containerd waits for: snapshot, container, task created and started. The mounting
//!   is containerd's own, by its shim. Of the two passes of the incident this has one; the other is the client's, which
//!   reads the image's users from a mount of its own, and this client gives numbers instead. Pods ([`super::cri`]) have
//!   both.
//! - [`Part::Rootfs`], the snapshot and its mounts without a process. No call of containerd mounts a snapshot and stops
//!   there: its client does, in the client's process. So it is done here, by the engine's mechanism that makes the same
//!   mount operations as the client of that version ([`Mounting`]), in containerd's mount namespace, on the very
//!   directories containerd answered with. What it lacks is the client's fork for each user namespace: the engine keeps
//!   them. Without a mapping the client mounts an overlay, and nothing else. The figures are those of our mounting on
//!   containerd's snapshots, not of its Go code.
//!
//! A container is there when its task was started, or its root file system mounted.
//!
//! It refuses mappings where the snapshotter does not map ids: it would copy the image once a mapping.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Instant;

use plywood_containerd::{Client, Image, Mounting, NAMESPACE, Session, Task};
use plywood_kernel::idmap::IdMap;
use plywood_kernel::mountns::MountNs;

use super::{LaunchFailure, Launched, Launcher, LauncherError, Round};

mod rootfs;
mod round;
mod unmapped;

use rootfs::{Assembler, How, Mounted};
pub(super) use round::Running;

/// What can be done where ids cannot be mapped.
pub(super) const WITHOUT: &str = "`--userns host` measures it without";

/// Where the image is.
#[derive(Debug, Clone)]
pub enum Source {
    /// In a namespace of containerd, by this name.
    Name(String),
    /// In an OCI layout directory; the name may be left out where there is one image only.
    Layout(PathBuf, Option<String>),
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Prepare the snapshot and mount it, so many times as containerd and its client would: 2 is the incident.
    Rootfs {
        /// How many times.
        passes: u32,
    },
    /// All of it, up to a started task.
    Task,
}

/// What to open.
#[derive(Debug, Clone)]
pub struct Config {
    /// containerd's gRPC socket.
    pub socket: PathBuf,
    /// Which snapshotter.
    pub snapshotter: String,
    /// The image.
    pub image: Source,
    /// How many of its layers, from the lowest; each has a snapshot to start from. None: all.
    pub layers: Option<usize>,
    /// What containers run; nothing: what their image says.
    pub command: Vec<String>,
    /// What is measured.
    pub part: Part,
    /// The id mappings of containers, by their number; the caller holds the ids. None: they have the host's ids, and no
    /// user namespaces.
    pub mappings: Option<Vec<IdMap>>,
    /// Set when somebody asks to stop: calls that make something end then, and so does opening.
    pub cancel: Arc<AtomicBool>,
}

/// The launcher.
#[derive(Debug)]
pub struct Containerd {
    session: Arc<Session>,
    image: Image,
    command: Vec<String>,
    mappings: Option<Vec<IdMap>>,
    assembler: Option<Assembler>,
    running: Running<Container>,
    number: u32,
    rounds: AtomicU32,
    /// The storm's own request; the client heeds that of the configuration by itself.
    cancelled: AtomicBool,
}

/// What is there of a container.
#[derive(Debug)]
enum Container {
    Task(Task),
    Mounted(Mounted),
}

/// Connects, brings the image in and unpacks it.
///
/// # Errors
/// There is no containerd, no such snapshotter, it does not map ids and is to, there is no image, nothing to run.
pub fn open(config: Config) -> Result<Containerd, LauncherError> {
    let client = Client::connect_until(&config.socket, Arc::clone(&config.cancel))
        .map_err(LauncherError::doing("connecting to containerd"))?;
    let session = Session::open(&client, NAMESPACE, &config.snapshotter)
        .map_err(LauncherError::doing("opening a session of containerd"))?;
    if config.mappings.is_some() && !session.snapshotter().maps_ids() {
        return Err(LauncherError::new("asking containerd for id mappings", no_mappings(&client, &config)));
    }
    let mut image = config.image.bring_into(&session)?;
    image.chain.truncate(config.layers.unwrap_or(usize::MAX));
    let command = command(&config.command, &image)?;
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let assembler = match config.part {
        Part::Task => None,
        Part::Rootfs { passes } => {
            let how = match config.mappings {
                Some(_) => How::mapped(client.version()),
                None => How::Unmapped,
            };
            Some(Assembler::new(namespace(&client)?, how, passes, number)?)
        }
    };
    Ok(Containerd {
        session,
        image,
        command,
        mappings: config.mappings,
        assembler,
        running: Running::default(),
        number,
        rounds: AtomicU32::new(0),
        cancelled: AtomicBool::new(false),
    })
}

impl Source {
    /// The image, unpacked.
    pub(super) fn bring_into(&self, session: &Session) -> Result<Image, LauncherError> {
        let image = match self {
            Self::Name(name) => session.image(name),
            Self::Layout(layout, name) => session.import(layout, name.as_deref()),
        };
        image.map_err(LauncherError::doing("bringing the image into containerd"))
    }
}

impl Containerd {
    /// How many layers containers have.
    pub fn layers(&self) -> usize {
        self.image.chain.len()
    }

    fn start(&self, container: usize) -> Result<(Container, Instant), LaunchFailure> {
        let mapping = mapping(self.mappings.as_deref(), container)?;
        let round = self.rounds.load(Ordering::Relaxed);
        let id = format!("plywood-storm-{}-{}-{round}-{container}", std::process::id(), self.number);
        let snapshot =
            self.session.prepare(&id, &self.image, mapping).map_err(|error| LaunchFailure::of(&error))?;
        match &self.assembler {
            None => {
                let task = snapshot.start(&self.command).map_err(|error| LaunchFailure::of(&error))?;
                Ok((Container::Task(task), Instant::now()))
            }
            Some(assembler) => {
                let (mounted, there) = assembler.mount(&id, snapshot)?;
                Ok((Container::Mounted(mounted), there))
            }
        }
    }
}

impl Launcher for Containerd {
    fn prepare(&self, round: Round) -> Result<(), LauncherError> {
        enough(self.mappings.as_deref(), round)?;
        self.rounds.fetch_add(1, Ordering::Relaxed);
        self.running.open();
        match (&self.assembler, &self.mappings) {
            (Some(assembler), Some(mappings)) => assembler.prepare(&mappings[..round.containers]),
            _ => Ok(()),
        }
    }

    fn launch(&self, container: usize) -> Result<Launched, LaunchFailure> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(LaunchFailure::new("cancelled"));
        }
        let round = self.running.round();
        let (started, there) = self.start(container)?;
        match self.running.add(round, started) {
            Ok(()) => Ok(Launched::at(there)),
            // The round was given up while it started.
            Err(late) => {
                self.take_back(late).map_err(|error| LaunchFailure::of(&error))?;
                Err(LaunchFailure::new("there after its round had ended"))
            }
        }
    }

    fn remove(&self) -> Result<(), LauncherError> {
        self.running.take_back(|container| self.take_back(container))
    }

    fn close(&self) -> Result<(), LauncherError> {
        // What this leaves, the others take back, or say that it is left.
        let removed = self.remove();
        let unmounted = self.assembler.as_ref().map_or(Ok(()), Assembler::close);
        let closed = self.session.close().map_err(|error| LauncherError::new(self.session.left(), error));
        retried(removed);
        unmounted.and(closed)
    }

    fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    fn namespace(&self) -> Result<Option<MountNs>, LauncherError> {
        namespace(self.session.client()).map(Some)
    }

    fn versions(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("containerd".to_owned(), self.session.client().version().to_string())])
    }
}

impl Containerd {
    fn take_back(&self, container: Container) -> Result<(), LauncherError> {
        match container {
            Container::Task(task) => {
                task.remove().map_err(LauncherError::doing("removing a container of containerd"))
            }
            Container::Mounted(mounted) => mounted.remove(),
        }
    }
}

/// Closing has tried again, and tells what is left.
pub(super) fn retried(removed: Result<(), LauncherError>) {
    if let Err(error) = removed {
        tracing::debug!(
            error = &error as &dyn std::error::Error,
            "closing takes back what is left of a round"
        );
    }
}

/// Where containerd and its shims mount.
pub(super) fn namespace(client: &Client) -> Result<MountNs, LauncherError> {
    let doing = "looking for the mount namespace of containerd";
    let pid = client.pid().ok_or_else(|| {
        LauncherError::new(doing, "containerd runs in a PID namespace that this process cannot see into")
    })?;
    MountNs::of(pid).map_err(LauncherError::doing(doing))
}

/// A mapping for each container of the round, where they have any.
pub(super) fn enough(mappings: Option<&[IdMap]>, round: Round) -> Result<(), LauncherError> {
    match mappings {
        Some(mappings) if mappings.len() < round.containers => {
            let few = format!("{} id mappings for {} containers", mappings.len(), round.containers);
            Err(LauncherError::new("preparing a round", few))
        }
        _ => Ok(()),
    }
}

/// The mapping of one container, where they have any.
pub(super) fn mapping(mappings: Option<&[IdMap]>, container: usize) -> Result<Option<&IdMap>, LaunchFailure> {
    mappings
        .map(|mappings| mappings.get(container).ok_or_else(|| LaunchFailure::new("no ids are left for it")))
        .transpose()
}

/// What was asked for, else what the image says.
fn command(asked: &[String], image: &Image) -> Result<Vec<String>, LauncherError> {
    let default = || [image.config.entrypoint.as_slice(), image.config.cmd.as_slice()].concat();
    let command = if asked.is_empty() { default() } else { asked.to_vec() };
    if command.is_empty() {
        return Err(LauncherError::new("looking for what to run", "the image says nothing; name a command"));
    }
    Ok(command)
}

fn no_mappings(client: &Client, config: &Config) -> String {
    let (version, snapshotter) = (client.version(), &config.snapshotter);
    let why = match version.mounting() {
        Mounting::Copies => {
            format!("containerd {version} copies the image once a mapping; 2.0 and newer map ids by mounts")
        }
        _ => format!(
            "the snapshotter {snapshotter} does not state `remap-ids`: ids cannot be mapped where it keeps layers"
        ),
    };
    format!("{why}; {WITHOUT}")
}
