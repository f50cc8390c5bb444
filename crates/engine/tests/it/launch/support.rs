//! A root file system of busybox, and a launcher with directories of its own.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{Read as _, Seek as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::Receiver;

use plywood_engine::bundle::{
    self, BundleRequest, CapabilityChange, CgroupMount, Net, Overrides, Resources, SeccompProfile, Volume,
};
use plywood_engine::cgroup::Cgroups;
use plywood_engine::launch::{
    Event, Launch, LaunchError, Launcher, LauncherConfig, Prepared, RunDirectories, Stdio, Stream,
    clone_volume,
};
use plywood_engine::runtime::{self, RunMode, Runtime};
use plywood_engine::users::ContainerUser;
use plywood_image::ImageConfig;
use plywood_kernel::{IdMap, IdRange, MountFd, UserNs};

/// What a test asks for; the rest is usual.
pub(crate) struct Wish {
    pub(crate) argv: Vec<String>,
    pub(crate) uid: u32,
    pub(crate) overrides: Overrides,
    pub(crate) read_only: bool,
    pub(crate) net: Net,
    pub(crate) volumes: Vec<String>,
    pub(crate) resources: Resources,
    pub(crate) capabilities: CapabilityChange,
    pub(crate) stdout: Option<File>,
}

/// Runs `sh -c script`.
pub(crate) fn shell(script: &str) -> Wish {
    command(&["sh", "-c", script])
}

pub(crate) fn command(argv: &[&str]) -> Wish {
    Wish {
        argv: argv.iter().map(|argument| (*argument).to_owned()).collect(),
        uid: 0,
        overrides: Overrides { hostname: Some("box".to_owned()), ..Overrides::default() },
        read_only: false,
        net: Net::None,
        volumes: Vec::new(),
        resources: Resources::default(),
        capabilities: CapabilityChange::default(),
        stdout: None,
    }
}

/// Directories, runtime and image of one test.
pub(crate) struct Host {
    scratch: tempfile::TempDir,
    pub(crate) directories: RunDirectories,
    pub(crate) runtime: Runtime,
    pub(crate) cgroups: Cgroups,
    image: Arc<ImageConfig>,
    next: AtomicU32,
}

/// Ids far away from what distributions hand out.
const FIRST_ID: u32 = 1_500_000_000;

impl Host {
    pub(crate) fn new() -> Host {
        Host::with_directories(|scratch| RunDirectories {
            anchor: scratch.join("anchor"),
            run: scratch.join("run"),
        })
    }

    /// With directories of choice, or some below the scratch directory it is given.
    pub(crate) fn with_directories(directories: impl FnOnce(&Path) -> RunDirectories) -> Host {
        plywood_kernel::testing::require_root();
        // The container's root has to be able to walk down to its root file system.
        let scratch = tempfile::Builder::new()
            .prefix("plywood-launch-")
            .permissions(Permissions::from_mode(0o711))
            .tempdir()
            .unwrap();
        let directories = directories(scratch.path());
        make_rootfs(&scratch.path().join("image"));
        let cgroups = Cgroups::detect().unwrap();
        let search = OsStr::new("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        let runtime = runtime::find(None, search, cgroups.layout(), &directories.run).unwrap();
        let config =
            br#"{"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []},
            "config": {"Env": ["PATH=/bin"]}}"#;
        let image = Arc::new(plywood_image::config::parse(config).unwrap());
        Host { scratch, directories, runtime, cgroups, image, next: AtomicU32::new(0) }
    }

    pub(crate) fn path(&self) -> &Path {
        self.scratch.path()
    }

    /// The directory every container of this host has as its root.
    pub(crate) fn rootfs(&self) -> PathBuf {
        self.scratch.path().join("image")
    }

    pub(crate) fn launcher(&self, mode: RunMode) -> (Launcher, Receiver<Event>) {
        let config = LauncherConfig::new(self.runtime.clone(), self.directories.clone(), mode);
        Launcher::start(config, &|| false).unwrap()
    }

    /// A launch of `wish` under a name and id range of its own.
    pub(crate) fn launch(&self, wish: Wish) -> (String, IdRange, Launch) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let id = format!("test-{}-{number}", std::process::id());
        let range = IdRange { start: FIRST_ID + number * 65_536, length: 65_536 };
        let (directories, image, rootfs) = (self.directories.clone(), Arc::clone(&self.image), self.rootfs());
        let name = id.clone();
        let prepare = move || prepare(&name, range, &directories, &image, &rootfs, wish);
        (id.clone(), range, Launch { id, prepare: Box::new(prepare) })
    }

    /// Runs one container to its end: its exit code and what it printed.
    pub(crate) fn run(&self, mode: RunMode, mut wish: Wish) -> (i32, String) {
        let mut output = tempfile::tempfile().unwrap();
        wish.stdout = Some(output.try_clone().unwrap());
        let code = match self.run_to_event(mode, wish) {
            Event::Exited { code, .. } => code,
            Event::Failed { error, .. } => panic!("{}", chain(&error)),
            other => panic!("{other:?}"),
        };
        let mut text = String::new();
        output.rewind().unwrap();
        output.read_to_string(&mut text).unwrap();
        (code, text)
    }

    /// Runs one container to its last event.
    pub(crate) fn run_to_event(&self, mode: RunMode, wish: Wish) -> Event {
        let (launcher, events) = self.launcher(mode);
        let (id, _, launch) = self.launch(wish);
        launcher.submit(launch);
        launcher.close();
        let last = events.iter().last().unwrap();
        launcher.finish().unwrap();
        self.assert_nothing_left(&id);
        last
    }

    pub(crate) fn assert_nothing_left(&self, id: &str) {
        assert_eq!(self.cgroups.directories(id), Vec::<PathBuf>::new(), "control groups of {id}");
        assert_eq!(self.runtime.ids().unwrap(), Vec::<String>::new(), "the runtime's records");
        assert_eq!(fs::read_dir(self.directories.pids()).unwrap().count(), 0, "process id files");
    }
}

fn prepare(
    id: &str,
    range: IdRange,
    directories: &RunDirectories,
    image: &ImageConfig,
    rootfs: &Path,
    wish: Wish,
) -> Result<Prepared, plywood_engine::launch::PrepareError> {
    let id_map = IdMap::from_ranges(range, range);
    let user_namespace = UserNs::create(&id_map)?;
    let mount = MountFd::clone_tree(rustix::fs::CWD, rootfs, false)?;
    mount.set_idmap(&user_namespace)?;
    let (mut clones, mut mounts) = (Vec::new(), Vec::new());
    for (index, text) in wish.volumes.iter().enumerate() {
        let (clone, spec) = clone_volume(&Volume::parse(text)?, index, &user_namespace, directories)?;
        clones.push(clone);
        mounts.push(spec);
    }
    let fd = std::os::fd::AsFd::as_fd(&user_namespace).as_raw_fd();
    let request = BundleRequest {
        image,
        overrides: Overrides { command: Some(wish.argv), ..wish.overrides },
        user: ContainerUser {
            uid: wish.uid,
            gid: wish.uid,
            groups: Vec::new(),
            home: "/".to_owned(),
            name: None,
        },
        id_map,
        user_namespace: Some(PathBuf::from(format!("/proc/{}/fd/{fd}", std::process::id()))),
        rootfs: directories.rootfs(),
        read_only: wish.read_only,
        net: wish.net,
        cgroup_mount: CgroupMount::ReadOnly,
        volumes: mounts,
        resources: wish.resources,
        rlimits: Vec::new(),
        cgroups_path: Cgroups::path_for(id),
        capabilities: wish.capabilities,
        seccomp: SeccompProfile::Default,
    };
    let bundle = directories.bundle(id);
    bundle::write(&bundle, &bundle::spec(&request)?)?;
    // The runtime opens it by that path; a test's process does not live long.
    std::mem::forget(user_namespace);
    let stdout = wish.stdout.map_or(Stream::Null, |file| Stream::Fd(file.into()));
    Ok(Prepared {
        rootfs: mount.into(),
        volumes: clones,
        bundle,
        stdio: Stdio { stdout, ..Stdio::default() },
    })
}

/// A program that makes one system call, by number and with whole registers as arguments, and exits with its errno;
/// with 256 less the result if that is none.
pub(crate) fn system_call(number: i64, arguments: [u64; 3]) -> Vec<u8> {
    let number = u32::try_from(number).unwrap();
    let mut code = Vec::new();
    if cfg!(target_arch = "x86_64") {
        // mov rdi, rsi and rdx; mov eax
        for (register, argument) in [0xbf, 0xbe, 0xba].into_iter().zip(arguments) {
            code.extend([0x48, register]);
            code.extend(argument.to_le_bytes());
        }
        code.push(0xb8);
        code.extend(number.to_le_bytes());
        // syscall; neg eax; mov edi, eax; mov eax, 60 (exit); syscall
        code.extend([0x0f, 0x05, 0xf7, 0xd8, 0x89, 0xc7, 0xb8, 60, 0, 0, 0, 0x0f, 0x05]);
    } else if cfg!(target_arch = "aarch64") {
        let mut words: Vec<u32> = Vec::new();
        // movz and three movk for each of x0, x1 and x2; movz x8
        for (register, argument) in (0..3).zip(arguments) {
            let part = |half: u32| ((argument >> (16 * half)) as u32 & 0xffff) << 5 | half << 21 | register;
            words.push(0xd280_0000 | part(0));
            words.extend([1, 2, 3].map(|half| 0xf280_0000 | part(half)));
        }
        words.push(0xd280_0008 | number << 5);
        // svc #0; neg x0, x0; mov x8, #93 (exit); svc #0
        words.extend([0xd400_0001, 0xcb00_03e0, 0xd280_0ba8, 0xd400_0001]);
        code.extend(words.into_iter().flat_map(u32::to_le_bytes));
    } else {
        panic!("write the system call for this architecture");
    }
    elf(&code)
}

/// A static program of this machine: ELF header, one segment with all of the file, the code.
fn elf(code: &[u8]) -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const CODE: u64 = 64 + 56;
    let machine: u16 = if cfg!(target_arch = "x86_64") { 62 } else { 183 };
    let size = CODE + code.len() as u64;
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    // e_type ET_EXEC, e_machine, e_version, then e_entry, e_phoff, e_shoff, e_flags
    file.extend([2_u16.to_le_bytes(), machine.to_le_bytes(), [1, 0], [0, 0]].concat());
    file.extend([BASE + CODE, 64, 0].map(u64::to_le_bytes).concat());
    file.extend(0_u32.to_le_bytes());
    // e_ehsize, e_phentsize, e_phnum, e_shentsize, e_shnum, e_shstrndx
    file.extend([64_u16, 56, 1, 0, 0, 0].map(u16::to_le_bytes).concat());
    // p_type PT_LOAD, p_flags PF_R|PF_X, then p_offset, p_vaddr, p_paddr, p_filesz, p_memsz, p_align
    file.extend([1_u32, 5].map(u32::to_le_bytes).concat());
    file.extend([0, BASE, BASE, size, size, 0x1_0000].map(u64::to_le_bytes).concat());
    file.extend(code);
    file
}

/// An error with all its causes, in one line.
pub(crate) fn chain(error: &LaunchError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn make_rootfs(root: &Path) {
    let busybox = Path::new("/bin/busybox");
    assert!(busybox.exists(), "this test needs a static busybox; run: apt-get install busybox-static");
    for directory in ["bin", "dev", "etc", "proc", "sys", "tmp", "data"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    fs::set_permissions(root, Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(root.join("tmp"), Permissions::from_mode(0o1777)).unwrap();
    fs::copy(busybox, root.join("bin/busybox")).unwrap();
    for applet in [
        "sh", "true", "cat", "id", "ls", "mount", "unshare", "stat", "sleep", "hostname", "ip", "touch",
        "kill", "chroot", "test",
    ] {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(root.join("bin/script"), "no interpreter line, no program\n").unwrap();
    fs::set_permissions(root.join("bin/script"), Permissions::from_mode(0o644)).unwrap();
    fs::write(root.join("etc/owned"), "").unwrap();
    chown(root.join("etc/owned"), Some(7), Some(8)).unwrap();
}
