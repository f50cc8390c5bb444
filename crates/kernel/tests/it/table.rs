//! The mount table by both ways of reading it.

use plywood_kernel::testing::{deny_syscalls, in_private_mount_ns, on_own_thread, require_root};
use plywood_kernel::{FsContext, MountAttrs, MountEntry, MountFd, table};
use rustix::fs::CWD;

const SYS_STATMOUNT: libc::c_long = 457;
const SYS_LISTMOUNT: libc::c_long = 458;

/// Odd names, an empty source, an idmap: what the two readers could disagree about.
fn odd_mounts(dir: &std::path::Path) {
    let odd = dir.join("with blank\ttab\\back\nnewline#hash");
    std::fs::create_dir(&odd).unwrap();
    let context = FsContext::open("tmpfs").unwrap();
    context.set_string("source", "a source").unwrap();
    context.create().unwrap();
    let attrs = MountAttrs::NOSUID | MountAttrs::NOEXEC | MountAttrs::RDONLY;
    context.mount(attrs).unwrap().attach(CWD, &odd).unwrap();

    let mapped = dir.join("mapped");
    std::fs::create_dir(&mapped).unwrap();
    let range = plywood_kernel::IdRange { start: 100_000, length: 10 };
    let clone = MountFd::clone_tree(CWD, dir, false).unwrap();
    clone
        .set_idmap(
            &plywood_kernel::UserNs::create(&plywood_kernel::IdMap::from_ranges(range, range)).unwrap(),
        )
        .unwrap();
    clone.attach(CWD, &mapped).unwrap();
}

fn sorted(mut entries: Vec<MountEntry>) -> Vec<MountEntry> {
    entries.sort_by_key(|entry| entry.id);
    entries
}

/// The options of an entry as a set: the two ways order them differently.
fn words(options: &str) -> std::collections::BTreeSet<&str> {
    options.split(',').filter(|word| !word.is_empty()).collect()
}

#[test]
fn root_both_readers_agree() {
    require_root();
    let dir = tempfile::tempdir().unwrap();
    in_private_mount_ns(|| {
        odd_mounts(&dir.path().canonicalize().unwrap());
        let new = sorted(table::list().unwrap());
        let old = sorted(table::list_mountinfo().unwrap());
        assert!(new.iter().all(|entry| entry.unique_id.is_some()), "this kernel has statmount");
        assert_eq!(new.len(), old.len());
        for (new, old) in new.iter().zip(&old) {
            let place = |entry: &MountEntry| {
                (entry.id, entry.parent_id, entry.device, entry.mount_point.clone(), entry.root.clone())
            };
            assert_eq!(place(new), place(old));
            assert_eq!((&new.fs_type, &new.source), (&old.fs_type, &old.source), "{new:?}");
            assert_eq!(words(&new.options), words(&old.options), "{new:?} {old:?}");
            assert_eq!(new.propagates, old.propagates);
            assert_eq!(new.is_idmapped(), old.is_idmapped());
        }
        assert!(new.iter().any(|entry| entry.is_idmapped()));
        assert!(new.iter().any(|entry| entry.source == "a source"));
    });
}

#[test]
fn root_without_the_calls_mountinfo_is_read() {
    require_root();
    let expected = table::count().unwrap();
    on_own_thread(|| {
        deny_syscalls(&[SYS_STATMOUNT, SYS_LISTMOUNT]);
        assert_eq!(table::count().unwrap(), expected);
        assert_eq!(table::unique_ids().unwrap(), None);
        let entries = table::list().unwrap();
        assert_eq!(entries.len(), expected);
        assert!(entries.iter().all(|entry| entry.unique_id.is_none()));
        assert!(table::is_plain_mount(std::fs::File::open("/").unwrap()).unwrap());
    });
    on_own_thread(|| {
        deny_syscalls(&[SYS_STATMOUNT]);
        assert_eq!(table::list().unwrap().len(), expected);
    });
}

#[test]
fn root_thousands_of_mounts_are_listed_completely() {
    require_root();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().canonicalize().unwrap();
    in_private_mount_ns(|| {
        let before = table::count().unwrap();
        for number in 0..2_500 {
            let point = path.join(number.to_string());
            std::fs::create_dir(&point).unwrap();
            MountFd::clone_tree(CWD, &point, false).unwrap().attach(CWD, &point).unwrap();
        }
        assert_eq!(table::count().unwrap(), before + 2_500);
        let entries = table::list().unwrap();
        assert_eq!(entries.len(), before + 2_500);
        assert_eq!(table::unique_ids().unwrap().unwrap().len(), before + 2_500);
        assert_eq!(table::points_below(&entries, &path).len(), 2_500);
    });
}

#[test]
fn root_covering_finds_the_mount_a_path_lies_on() {
    require_root();
    let entries = table::list().unwrap();
    let device = |path: &str| table::covering(&entries, path.as_ref()).unwrap().fs_type.clone();
    assert_eq!(device("/proc/self/fd"), "proc");
    assert_eq!(device("/sys/kernel"), "sysfs");
    assert_eq!(
        table::covering(&entries, "/no/such".as_ref()).unwrap().mount_point,
        std::path::PathBuf::from("/")
    );
}
