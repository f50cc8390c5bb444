//! Older kernels, played by a filter that refuses their missing calls: the next rung is chosen, and works.

use plywood_engine::capabilities::{Answer, Capabilities};
use plywood_engine::lower::LowerSource;
use plywood_engine::mechanism::{Choice, Mechanism};
use plywood_engine::plan::{Op, plan};
use plywood_kernel::testing::{Denied, deny, in_private_mount_ns, require_root};

use super::bed::Bed;

const SET_STRING: Option<(usize, u32)> = Some((1, 1));
const SET_FD: Option<(usize, u32)> = Some((1, 5));

/// A call, an argument and its value where only that is refused, and the errno.
type Rule = (libc::c_long, Option<(usize, u32)>, i32);

/// Probes and launches under the filter; returns what was found.
fn falls_back_to(mechanism: Mechanism, rules: &[Rule]) -> Capabilities {
    require_root();
    let denied: Vec<_> =
        rules.iter().map(|&(call, argument, errno)| Denied { call, argument, errno }).collect();
    in_private_mount_ns(|| {
        let bed = Bed::new(6);
        deny(&denied);
        let found = Capabilities::probe(&bed.path("tmp")).unwrap();
        bed.assert_untouched("probing");
        let bed = if mechanism == Mechanism::Private { bed.with_worker() } else { bed };
        for source in LowerSource::ALL {
            let plan = plan(&bed.request(Choice::Auto, source), &found).unwrap();
            assert_eq!(plan.mechanism, mechanism, "{found:#?}");
            let rootfs = bed.apply(&plan).unwrap_or_else(|error| panic!("{mechanism}, {source}: {error:?}"));
            let seen = bed.inside(
                &rootfs,
                "stat -c %u:%g file home/user; echo x >> file; ls -d of-layer-* gone 2>/dev/null | wc -l",
            );
            assert_eq!(seen, "0:0\n1000:1000\n6", "{mechanism}, {source}");
            drop(rootfs);
            bed.assert_no_traces(&format!("{mechanism}, {source}"));
            bed.empty_snapshot();
        }
        found
    })
}

fn said(answer: &Answer, errno: &str) {
    assert!(matches!(answer, Answer::No { reason } if reason.contains(errno)), "{answer:?}");
}

#[test]
fn root_without_layer_descriptors_private() {
    // As 6.12 and 6.1 answer.
    for (errno, name) in [(libc::EBADF, "EBADF"), (libc::EINVAL, "EINVAL"), (libc::EOPNOTSUPP, "EOPNOTSUPP")]
    {
        let found = falls_back_to(Mechanism::Private, &[(libc::SYS_fsconfig, SET_FD, errno)]);
        said(&found.detached, name);
        said(&found.idmapped_overlay, name);
        assert!(found.append_layers.is_yes());
    }
}

#[test]
fn root_without_single_layers_private_by_one_mount_call() {
    let rules = [(libc::SYS_fsconfig, SET_FD, libc::EINVAL), (libc::SYS_fsconfig, SET_STRING, libc::EINVAL)];
    let found = falls_back_to(Mechanism::Private, &rules);
    said(&found.append_layers, "EINVAL");
    let bed = Bed::new(2);
    let plan = plan(&bed.request(Choice::Auto, LowerSource::Layers), &found).unwrap();
    assert!(plan.steps.iter().any(|step| matches!(step.op, Op::MountOverlay { .. })), "{plan}");
}

#[test]
fn root_without_fsopen_private_by_one_mount_call() {
    let found = falls_back_to(Mechanism::Private, &[(libc::SYS_fsopen, None, libc::ENOSYS)]);
    said(&found.append_layers, "ENOSYS");
}

#[test]
fn root_without_open_tree_copy() {
    // From 7.3 on the overlay itself takes the id map, and nothing is cloned.
    let bed = Bed::new(2);
    let all = Capabilities::probe(&bed.path("tmp")).unwrap();
    let expected = if all.idmapped_overlay.is_yes() { Mechanism::IdmappedOverlay } else { Mechanism::Copy };
    let found = falls_back_to(expected, &[(libc::SYS_open_tree, None, libc::ENOSYS)]);
    said(&found.mount_api, "ENOSYS");
    said(&found.private, "ENOSYS");
}

#[test]
fn root_without_mount_setattr_copy() {
    let found = falls_back_to(Mechanism::Copy, &[(libc::SYS_mount_setattr, None, libc::ENOSYS)]);
    said(&found.detached, "ENOSYS");
}

#[test]
fn root_a_refusal_for_want_of_permission_is_an_error_not_a_no() {
    let found = falls_back_to(Mechanism::Copy, &[(libc::SYS_mount_setattr, None, libc::EPERM)]);
    assert!(matches!(&found.detached, Answer::Error { message } if message.contains("EPERM")), "{found:?}");
}
