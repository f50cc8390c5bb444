//! What the bursts run on: layers and prepared bundles, directories and namespaces of their own.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::{PermissionsExt as _, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use plywood_engine::apply::{Context, apply};
use plywood_engine::bundle::{
    self, BundleRequest, CapabilityChange, CgroupMount, Net, Overrides, Resources, SeccompProfile,
};
use plywood_engine::capabilities::Capabilities;
use plywood_engine::cgroup::Cgroups;
use plywood_engine::launch::{Event, Launch, Launcher, LauncherConfig, Prepared, RunDirectories, Stdio};
use plywood_engine::lower::{LowerRef, Lowers};
use plywood_engine::plan::{Request, plan};
use plywood_engine::runtime::{self, RunMode, Runtime};
use plywood_engine::users::ContainerUser;
use plywood_image::ImageConfig;
use plywood_kernel::{IdMap, IdRange, Reaper, UserNs};

/// Ids far away from what distributions hand out.
const FIRST_ID: u32 = 1_500_000_000;

pub(crate) struct Bed {
    scratch: tempfile::TempDir,
    pub(crate) runtime: Runtime,
    pub(crate) containers: usize,
    shared: Arc<Shared>,
}

/// What launches need on their threads.
struct Shared {
    root: PathBuf,
    directories: RunDirectories,
    lowers: Lowers,
    capabilities: Capabilities,
    image: ImageConfig,
    namespaces: Vec<(IdMap, UserNs)>,
    reaper: Reaper,
}

impl Bed {
    pub(crate) fn new(containers: usize, layers: usize) -> Bed {
        let scratch = tempfile::Builder::new()
            .prefix("plywood-bench-")
            .permissions(Permissions::from_mode(0o711))
            .tempdir()
            .unwrap();
        let root = scratch.path().to_owned();
        let directories = RunDirectories { anchor: root.join("anchor"), run: root.join("run") };
        let layout = Cgroups::detect().unwrap().layout();
        let runtime =
            runtime::find(None, OsStr::new("/usr/local/sbin:/usr/sbin:/usr/bin"), layout, &directories.run)
                .unwrap();
        for directory in ["layers", "plain", "bare", "snapshots"] {
            fs::create_dir(root.join(directory)).unwrap();
        }
        let mut names = Vec::new();
        for layer in (1..=layers).rev() {
            let directory = root.join(format!("layers/{layer}"));
            fs::create_dir(&directory).unwrap();
            fs::write(directory.join(format!("of-layer-{layer}")), "").unwrap();
            if layer == 1 {
                fill(&directory, 0);
            }
            names.push(LowerRef::new(layer.to_string()).unwrap());
        }
        let json = br#"{"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []},
            "config": {"Env": ["PATH=/bin"], "Cmd": ["true"]}}"#;
        let id_map = |index: usize| {
            let start = FIRST_ID + u32::try_from(index).unwrap() * 65_536;
            IdMap::from_ranges(IdRange { start, length: 65_536 }, IdRange { start, length: 65_536 })
        };
        let namespaces: Vec<(IdMap, UserNs)> =
            (0..containers).map(id_map).map(|map| (map.clone(), UserNs::create(&map).unwrap())).collect();
        let shared = Shared {
            lowers: Lowers::layers(root.join("layers"), names).unwrap(),
            capabilities: Capabilities::probe(&root.join("snapshots")).unwrap(),
            image: plywood_image::config::parse(json).unwrap(),
            reaper: Reaper::start().unwrap(),
            namespaces,
            directories,
            root,
        };
        let bed = Bed { scratch, runtime, containers, shared: Arc::new(shared) };
        for index in 0..containers {
            bed.prepare_bare(index);
        }
        bed
    }

    /// A plain directory with everything in it belonging to the container's range, and a bundle for it.
    fn prepare_bare(&self, index: usize) {
        let rootfs = self.scratch.path().join(format!("plain/{index}"));
        fs::create_dir(&rootfs).unwrap();
        let map = &self.shared.namespaces[index].0;
        fill(&rootfs, map.to_host_uid(0).unwrap());
        let request = self.shared.request(index, &bare_id(index), rootfs, None);
        bundle::write(&self.bare_bundle(index), &bundle::spec(&request).unwrap()).unwrap();
    }

    fn bare_bundle(&self, index: usize) -> PathBuf {
        self.scratch.path().join(format!("bare/{index}"))
    }

    /// Every prepared bundle, by the runtime and nothing else.
    pub(crate) fn run_bare(&self, concurrency: usize) {
        let mut running: Vec<Child> = Vec::new();
        for index in 0..self.containers {
            if running.len() >= concurrency {
                // The oldest is as good a guess as any for the next one to end.
                assert!(running.remove(0).wait().unwrap().success());
            }
            let child = Command::new(self.runtime.path())
                .arg("--root")
                .arg(self.scratch.path().join("bare-state"))
                .args(["run", "--bundle"])
                .arg(self.bare_bundle(index))
                .arg(bare_id(index))
                .stdin(std::process::Stdio::null())
                .spawn()
                .unwrap();
            running.push(child);
        }
        for mut child in running {
            assert!(child.wait().unwrap().success());
        }
    }

    pub(crate) fn launcher(
        &self,
        mode: RunMode,
        threads: usize,
        starting: usize,
    ) -> (Launcher, Receiver<Event>) {
        let config = LauncherConfig::new(self.runtime.clone(), self.shared.directories.clone(), mode);
        Launcher::start(LauncherConfig { threads, starting, ..config }, &|| false).unwrap()
    }

    pub(crate) fn launch(&self, index: usize) -> Launch {
        let id = format!("bench-{index}");
        let (name, shared) = (id.clone(), Arc::clone(&self.shared));
        Launch { id, prepare: Box::new(move || shared.prepare(index, &name)) }
    }

    /// Takes away what a burst of ours left on disk.
    pub(crate) fn clear(&self) {
        self.shared.reaper.drain();
        for (parent, prefix) in
            [(self.shared.directories.bundles(), "bench-"), (self.shared.root.join("snapshots"), "")]
        {
            let Ok(handle) = File::open(&parent) else { continue };
            for index in 0..self.containers {
                let name = format!("{prefix}{index}");
                if parent.join(&name).exists() {
                    plywood_kernel::remove_tree(&handle, name).unwrap();
                }
            }
        }
    }
}

impl Shared {
    fn prepare(&self, index: usize, id: &str) -> Result<Prepared, plywood_engine::launch::PrepareError> {
        let (id_map, namespace) = &self.namespaces[index];
        let snapshot = self.root.join(format!("snapshots/{index}"));
        let [upper, work, scratch] = ["fs", "work", "tmp"].map(|name| snapshot.join(name));
        fs::create_dir(&snapshot)?;
        fs::create_dir(&upper)?;
        fs::create_dir(&work)?;
        let request = Request::new(self.lowers.clone(), id_map.clone(), upper, work, scratch);
        let plan = plan(&request, &self.capabilities)?;
        let context = Context { user_ns: namespace, reaper: &self.reaper, worker: None };
        let rootfs = apply(&plan, &context)?;

        let path =
            PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), namespace.as_fd().as_raw_fd()));
        let spec = bundle::spec(&self.request(index, id, self.directories.rootfs(), Some(path)))?;
        let bundle = self.directories.bundle(id);
        bundle::write(&bundle, &spec)?;
        Ok(Prepared { rootfs: rootfs.into(), volumes: Vec::new(), bundle, stdio: Stdio::default() })
    }

    fn request(
        &self,
        index: usize,
        id: &str,
        rootfs: PathBuf,
        user_namespace: Option<PathBuf>,
    ) -> BundleRequest<'_> {
        BundleRequest {
            image: &self.image,
            overrides: Overrides { hostname: Some(id.to_owned()), ..Overrides::default() },
            user: ContainerUser { uid: 0, gid: 0, groups: Vec::new(), home: "/".to_owned(), name: None },
            id_map: self.namespaces[index].0.clone(),
            user_namespace,
            rootfs,
            read_only: false,
            net: Net::None,
            cgroup_mount: CgroupMount::ReadOnly,
            volumes: Vec::new(),
            resources: Resources::default(),
            rlimits: Vec::new(),
            cgroups_path: Cgroups::path_for(id),
            capabilities: CapabilityChange::default(),
            seccomp: SeccompProfile::Default,
        }
    }
}

fn bare_id(index: usize) -> String {
    format!("bare-{index}")
}

fn fill(root: &Path, owner: u32) {
    let busybox = Path::new("/bin/busybox");
    assert!(busybox.exists(), "this benchmark needs a static busybox; run: apt-get install busybox-static");
    for directory in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
        fs::create_dir(root.join(directory)).unwrap();
    }
    fs::copy(busybox, root.join("bin/busybox")).unwrap();
    symlink("busybox", root.join("bin/true")).unwrap();
    for name in ["", "bin", "dev", "etc", "proc", "sys", "tmp", "bin/busybox", "bin/true"] {
        lchown(root.join(name), Some(owner), Some(owner)).unwrap();
    }
}
