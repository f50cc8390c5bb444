//! The state root and the runtime directory of those who choose none, in a mount namespace where they are empty.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use plywood_kernel::{FsContext, MountAttrs};
use rustix::fs::CWD;
use rustix::mount::{UnmountFlags, unmount};

use super::bed::{Done, eventually, in_bed, start};
use super::layout::{TestImage, text};

fn plywood(args: &[&str]) -> Done {
    let mut command = Command::new(env!("CARGO_BIN_EXE_plywood"));
    command.args(args).env_remove("PLYWOOD_ROOT").stdin(Stdio::null());
    start(command).finish()
}

fn names(path: &str) -> Vec<String> {
    fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn root_without_a_choice_state_is_in_var_lib_and_the_rest_in_run() {
    in_bed(|bed| {
        let layout = TestImage::of_layers(8).write(&bed.path("layout"), "app");
        let tmpfs = FsContext::open("tmpfs").unwrap();
        tmpfs.create().unwrap();
        tmpfs.mount(MountAttrs::NONE).unwrap().attach(CWD, "/var/lib").unwrap();
        let ok = |args: &[&str]| plywood(args).ok();

        ok(&["import", text(layout.path())]);
        assert_eq!(Path::new("/var/lib/plywood").metadata().unwrap().mode() & 0o7777, 0o700);
        assert_eq!(ok(&["run", "--quiet", "app", "--", "cat", "/srv/of-layer-7"]), "7");
        let report = plywood(&["--json", "run", "-n", "3", "app", "--", "true"]).check(0).json();
        assert_eq!(report["host_mount_events"], 0);
        let id = ok(&["run", "-d", "--user", "app", "app", "--", "sleep", "1000"]).trim().to_owned();
        assert_eq!(names("/run/plywood/bundles"), [&*id]);
        assert_eq!(ok(&["exec", &id, "id", "-u"]), "1000\n");
        assert_eq!(ok(&["stop", "--time", "0", &id]).trim(), id);
        assert_eq!(ok(&["rm", &id]).trim(), id);
        for place in ["/run/plywood/bundles", "/run/plywood/pids", "/var/lib/plywood/snapshots"] {
            assert_eq!(names(place), Vec::<String>::new(), "{place}");
        }
        assert!(!Path::new("/var/lib/plywood/run").exists());
        ok(&["rmi", "app"]);
        // The supervisor of the container has told of its end, and ends itself a moment later.
        eventually("/var/lib is let go of", || unmount("/var/lib", UnmountFlags::empty()).ok());
    });
}
