//! Pods through the CRI of a real containerd, each with a user namespace and an id mapping of its own, or with the
//! host's ids (Kubernetes' `hostUsers: true`).
//!
//! A pod is there when its container was started. What the kubelet waits for: the pod's sandbox (namespaces, network,
//! pause container), then its container created and started. containerd mounts twice per container, for the pause image
//! and for the image, and once more each time it looks for the image's users; all of it is its own doing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use plywood_containerd::{Client, Image, Pod, Pods, Session};
use plywood_kernel::idmap::IdMap;
use plywood_kernel::mountns::MountNs;

use super::containerd::{self, Running, Source};
use super::{LaunchFailure, Launched, Launcher, LauncherError, Round};

/// How long the CRI plugin may take to see an image; it is told by an event.
const PATIENCE: Duration = Duration::from_secs(30);

/// What to open.
#[derive(Debug, Clone)]
pub struct Config {
    /// containerd's gRPC socket, which answers CRI calls as well.
    pub socket: PathBuf,
    /// The snapshotter that the CRI plugin is configured with: the image is unpacked for it beforehand.
    pub snapshotter: String,
    /// The image.
    pub image: Source,
    /// What containers run; nothing: what their image says.
    pub command: Vec<String>,
    /// The id mappings of pods, by their number; the caller holds the ids. None: they have the host's ids, and no user
    /// namespaces.
    pub mappings: Option<Vec<IdMap>>,
    /// Set when somebody asks to stop: calls that make something end then, and so does opening.
    pub cancel: Arc<AtomicBool>,
}

/// The launcher.
#[derive(Debug)]
pub struct Cri {
    pods: Arc<Pods>,
    session: Arc<Session>,
    image: Image,
    command: Vec<String>,
    mappings: Option<Vec<IdMap>>,
    running: Running<Pod>,
    number: u32,
    rounds: AtomicU32,
    cancelled: AtomicBool,
}

/// The snapshotter that pods will have, if containerd says it.
///
/// # Errors
/// There is no containerd, or no CRI.
pub fn snapshotter(socket: &Path, cancel: Arc<AtomicBool>) -> Result<Option<String>, LauncherError> {
    let client =
        Client::connect_until(socket, cancel).map_err(LauncherError::doing("connecting to containerd"))?;
    Pods::snapshotter(&client).map_err(LauncherError::doing("asking containerd for pods"))
}

/// Connects, brings the image in, unpacks it and waits until the CRI plugin knows it.
///
/// # Errors
/// There is no containerd, no CRI, no pods with user namespaces where they are to have them, no image.
pub fn open(config: Config) -> Result<Cri, LauncherError> {
    let client = Client::connect_until(&config.socket, Arc::clone(&config.cancel))
        .map_err(LauncherError::doing("connecting to containerd"))?;
    let pods = Pods::open(&client).map_err(LauncherError::doing("asking containerd for pods"))?;
    if config.mappings.is_some() {
        let without = |error| format!("{error}; {}", containerd::WITHOUT);
        pods.map_ids()
            .map_err(without)
            .map_err(LauncherError::doing("asking containerd for pods with user namespaces"))?;
    }
    let session = Session::open(&client, Pods::NAMESPACE, &config.snapshotter)
        .map_err(LauncherError::doing("opening a session of containerd"))?;
    let image = config.image.bring_into(&session)?;
    let start = Instant::now();
    while !pods.has_image(&image.name).map_err(LauncherError::doing("looking for the image"))? {
        if start.elapsed() > PATIENCE {
            let reason = format!("the CRI plugin does not see {}", image.name);
            return Err(LauncherError::new("looking for the image", reason));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    Ok(Cri {
        pods,
        session,
        image,
        command: config.command,
        mappings: config.mappings,
        running: Running::default(),
        number: NUMBER.fetch_add(1, Ordering::Relaxed),
        rounds: AtomicU32::new(0),
        cancelled: AtomicBool::new(false),
    })
}

impl Cri {
    /// How many layers the image has.
    pub fn layers(&self) -> usize {
        self.image.chain.len()
    }
}

impl Launcher for Cri {
    fn prepare(&self, round: Round) -> Result<(), LauncherError> {
        containerd::enough(self.mappings.as_deref(), round)?;
        self.rounds.fetch_add(1, Ordering::Relaxed);
        self.running.open();
        Ok(())
    }

    fn launch(&self, container: usize) -> Result<Launched, LaunchFailure> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(LaunchFailure::new("cancelled"));
        }
        let mapping = containerd::mapping(self.mappings.as_deref(), container)?;
        let round = self.running.round();
        let name = format!(
            "plywood-storm-{}-{}-{}-{container}",
            std::process::id(),
            self.number,
            self.rounds.load(Ordering::Relaxed)
        );
        let pod = self.pods.run(&name, mapping).map_err(|error| LaunchFailure::of(&error))?;
        pod.start(&self.image.name, &self.command).map_err(|error| LaunchFailure::of(&error))?;
        let there = Instant::now();
        match self.running.add(round, pod) {
            Ok(()) => Ok(Launched::at(there)),
            // The round was given up while it started; dropping removes it.
            Err(_) => Err(LaunchFailure::new("there after its round had ended")),
        }
    }

    fn remove(&self) -> Result<(), LauncherError> {
        self.running.take_back(|pod| pod.remove().map_err(LauncherError::doing("removing a pod")))
    }

    fn close(&self) -> Result<(), LauncherError> {
        // What this leaves, the others take back, or say that it is left.
        let removed = self.remove();
        let gone = self.pods.close().map_err(|error| LauncherError::new(self.pods.left(), error));
        let closed = self.session.close().map_err(|error| LauncherError::new(self.session.left(), error));
        containerd::retried(removed);
        gone.and(closed)
    }

    fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    fn namespace(&self) -> Result<Option<MountNs>, LauncherError> {
        containerd::namespace(self.session.client()).map(Some)
    }

    fn versions(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("containerd".to_owned(), self.session.client().version().to_string())])
    }
}
