//! What `copy` makes, entry by entry.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use plywood_engine::lower::LowerSource;
use plywood_engine::mechanism::Mechanism;
use plywood_kernel::testing::{in_private_mount_ns, require_root};
use rustix::fs::{CWD, XattrFlags};

use super::bed::{Bed, HOST_ROOT, in_user_ns, names};

fn xattr(path: &Path, name: &str) -> Vec<u8> {
    let mut value = vec![0; 256];
    let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
    value.truncate(length);
    value
}

fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().copied().flat_map(u32::to_le_bytes).collect()
}

#[test]
fn root_a_copy_keeps_everything_but_the_owners() {
    require_root();
    in_private_mount_ns(|| {
        let bed = Bed::new(3);
        let layer = bed.layer(1);
        let mut sparse = fs::File::create(layer.join("sparse")).unwrap();
        sparse.seek(SeekFrom::Start(64 << 20)).unwrap();
        sparse.write_all(b"the end").unwrap();
        fs::copy("/bin/true", layer.join("able")).unwrap();
        set_xattr(&layer.join("able"), "security.capability", &words(&[0x0200_0001, 1 << 10, 0, 0, 0]));
        set_xattr(&layer.join("file"), "user.note", b"kept");
        let entry = |tag: u32, id: u32| [tag | 6 << 16, id];
        let any = u32::MAX;
        let acl = |user: u32| {
            words(
                &[
                    &[2][..],
                    &entry(1, any),
                    &entry(2, user),
                    &entry(4, any),
                    &entry(16, any),
                    &entry(32, any),
                ]
                .concat(),
            )
        };
        set_xattr(&layer.join("dir"), "system.posix_acl_default", &acl(33));
        let old = rustix::fs::Timestamps {
            last_access: rustix::fs::Timespec { tv_sec: 1_000_000, tv_nsec: 1 },
            last_modification: rustix::fs::Timespec { tv_sec: 2_000_000, tv_nsec: 999_999_999 },
        };
        for name in ["file", "home", "links/soft"] {
            rustix::fs::utimensat(CWD, layer.join(name), &old, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
                .unwrap();
        }

        let rootfs = bed.apply(&bed.plan(Mechanism::Copy, LowerSource::Layers)).unwrap();
        let upper = bed.path("upper");
        let meta = |name: &str| fs::symlink_metadata(upper.join(name)).unwrap();
        assert_eq!(
            (meta("sparse").len(), meta("sparse").blocks() < 64),
            ((64 << 20) + 7, true),
            "holes stay holes"
        );
        assert_eq!(fs::read(upper.join("sparse")).unwrap()[64 << 20..], *b"the end");
        assert_eq!(xattr(&upper.join("file"), "user.note"), b"kept");
        let capability = words(&[0x0300_0001, 1 << 10, 0, 0, 0, HOST_ROOT]);
        assert_eq!(xattr(&upper.join("able"), "security.capability"), capability);
        assert_eq!(
            in_user_ns(&bed.user_ns, &upper, "getcap able 2>/dev/null || true").contains("able"),
            which("getcap")
        );
        // What the topmost layer says of a directory counts; its own list was empty.
        assert!(
            rustix::fs::lgetxattr(upper.join("dir"), "system.posix_acl_default", &mut [0u8; 64][..]).is_err()
        );
        for name in ["file", "home", "links/soft"] {
            let times = meta(name);
            assert_eq!((times.mtime(), times.mtime_nsec()), (2_000_000, 999_999_999), "{name}");
        }
        assert_eq!(meta("links/one").ino(), meta("links/two").ino());
        assert_eq!(meta("links/one").nlink(), 2);
        assert_eq!(names(&upper.join("opaque")), ["new"]);
        assert!(
            rustix::fs::lgetxattr(upper.join("opaque"), "trusted.overlay.opaque", &mut [0u8; 8][..]).is_err()
        );
        assert!(rootfs.done.copied.entries > 15 && rootfs.done.copied.bytes > 0, "{:?}", rootfs.done);
    });
}

#[test]
fn root_lists_that_new_entries_inherit_do_not_spoil_the_copy() {
    require_root();
    in_private_mount_ns(|| {
        let bed = Bed::new(2);
        let dir = bed.path("flat/1/fs/dir");
        let entry = |tag: u32, id: u32| [tag | 6 << 16, id];
        let any = u32::MAX;
        let acl = |user: u32| {
            words(
                &[
                    &[2][..],
                    &entry(1, any),
                    &entry(2, user),
                    &entry(4, any),
                    &entry(16, any),
                    &entry(32, any),
                ]
                .concat(),
            )
        };
        set_xattr(&dir, "system.posix_acl_default", &acl(33));
        let _rootfs = bed.apply(&bed.plan(Mechanism::Copy, LowerSource::Flat)).unwrap();
        let copied = bed.path("upper/dir");
        assert_eq!(xattr(&copied, "system.posix_acl_default"), acl(HOST_ROOT + 33));
        assert!(
            rustix::fs::lgetxattr(copied.join("kept"), "system.posix_acl_access", &mut [0u8; 64][..])
                .is_err()
        );
    });
}

fn which(program: &str) -> bool {
    ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].iter().any(|dir| Path::new(dir).join(program).exists())
}
