//! The default seccomp profile: system calls a container may make.
//!
//! An allow list. What is not listed fails with `EPERM`. Programs fall back from a call that is too new only where it
//! fails with `ENOSYS`: runc answers that, whatever the profile says, for calls numbered above every one listed here;
//! crun may not, and there they fail with `EPERM` until they are listed. A call guarded by a capability is allowed exactly when the container holds it,
//! because then the kernel's own check, made against the container's user namespace, is the one that counts.
//!
//! Three calls are allowed by argument: `clone` without the flags that make new namespaces, `socket` without the
//! hypervisor's address family, `personality` for the harmless values. `clone3` passes its flags in memory, where a
//! filter cannot look, so it fails with `ENOSYS` and libraries use `clone`.
//!
//! A filter sees registers of 64 bits, the kernel reads these arguments as 32: a comparison of the whole register would
//! not see `AF_VSOCK` in `0x1_0000_0028`. So none is made. Every condition is on bits that the kernel reads, by mask.

mod calls;

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Arch, Capabilities, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArgBuilder,
    LinuxSeccompBuilder, LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
};

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// Mount, cgroup, UTS, IPC, user, PID and network namespace.
const CLONE_NAMESPACES: u64 =
    0x0002_0000 | 0x0200_0000 | 0x0400_0000 | 0x0800_0000 | 0x1000_0000 | 0x2000_0000 | 0x4000_0000;

/// `AF_VSOCK` reaches the hypervisor past every network namespace.
const AF_VSOCK: u64 = 40;

/// The bits that tell address families apart: the kernel has 46 (`AF_MAX`), and knows none above. Another family differs
/// from a given one in one of these bits; numbers that share all of them are refused with it, and name nothing.
const FAMILY_BITS: [u64; 6] = [1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 4, 1 << 5];

/// An `int`, of which the kernel reads half a register.
const INT: u64 = 0xffff_ffff;

/// Linux and 32-bit Linux, each with and without an old release name; and asking what is set.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// The profile for a container holding `capabilities`, for the architecture this was built for and its 32-bit modes.
pub(super) fn profile(capabilities: &Capabilities) -> Result<LinuxSeccomp, OciSpecError> {
    let admin = capabilities.contains(&Capability::SysAdmin);
    let mut rules = vec![allow(calls::ALWAYS.iter().flat_map(|group| group.iter()))?];
    for bit in FAMILY_BITS {
        rules.push(allow_if("socket", bit, !AF_VSOCK & bit)?);
    }
    for value in PERSONALITIES {
        rules.push(allow_if("personality", INT, value)?);
    }
    if !admin {
        rules.push(allow_if("clone", CLONE_NAMESPACES, 0)?);
        rules.push(clone3_is_unknown()?);
    }
    for (capability, names) in calls::GUARDED {
        if capabilities.contains(capability) {
            rules.push(allow(names.iter())?);
        }
    }
    LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActErrno)
        .default_errno_ret(EPERM)
        .architectures(architectures())
        .syscalls(rules)
        .build()
}

/// The native architecture is always filtered; naming its 32-bit modes makes the filter cover them too.
fn architectures() -> Vec<Arch> {
    if cfg!(target_arch = "x86_64") {
        vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32]
    } else if cfg!(target_arch = "aarch64") {
        vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm]
    } else {
        Vec::new()
    }
}

fn allow<'a>(names: impl Iterator<Item = &'a &'a str>) -> Result<LinuxSyscall, OciSpecError> {
    LinuxSyscallBuilder::default()
        .names(names.map(|name| (*name).to_owned()).collect::<Vec<_>>())
        .action(LinuxSeccompAction::ScmpActAllow)
        .build()
}

/// Allows `name` where its first argument is `value` in the bits of `mask`.
fn allow_if(name: &str, mask: u64, value: u64) -> Result<LinuxSyscall, OciSpecError> {
    let argument = LinuxSeccompArgBuilder::default()
        .index(0_usize)
        .op(LinuxSeccompOperator::ScmpCmpMaskedEq)
        .value(mask)
        .value_two(value)
        .build()?;
    LinuxSyscallBuilder::default()
        .names([name.to_owned()])
        .action(LinuxSeccompAction::ScmpActAllow)
        .args([argument])
        .build()
}

fn clone3_is_unknown() -> Result<LinuxSyscall, OciSpecError> {
    LinuxSyscallBuilder::default()
        .names(["clone3".to_owned()])
        .action(LinuxSeccompAction::ScmpActErrno)
        .errno_ret(ENOSYS)
        .build()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_call_is_listed_twice_or_in_two_ways() {
        let mut seen = BTreeSet::new();
        for name in calls::ALWAYS.iter().flat_map(|group| group.iter()) {
            assert!(seen.insert(*name), "{name} is listed twice");
        }
        for (capability, names) in calls::GUARDED {
            for name in *names {
                assert!(!seen.contains(name), "{name} is allowed to all and guarded by {capability}");
            }
        }
        for name in [
            "clone",
            "clone3",
            "socket",
            "personality",
            "mount",
            "unshare",
            "setns",
            "keyctl",
            "bpf",
            "socketcall",
            "pidfd_getfd",
        ] {
            assert!(!seen.contains(name), "{name}");
        }
    }

    /// What the filter makes of a call, as libseccomp and the kernel compare: whole registers.
    fn allowed(name: &str, argument: u64) -> bool {
        let profile = profile(&Capabilities::new()).unwrap();
        let rules = profile.syscalls().as_ref().unwrap();
        let mut rules = rules.iter().filter(|rule| rule.names().iter().any(|other| other == name));
        rules.any(|rule| {
            rule.args().as_ref().unwrap().iter().all(|condition| {
                assert_eq!((condition.index(), condition.op()), (0, LinuxSeccompOperator::ScmpCmpMaskedEq));
                argument & condition.value() == condition.value_two().unwrap()
            })
        })
    }

    /// `socket(0x1_0000_0028, ...)` was another family for the filter, and the hypervisor's for the kernel.
    #[test]
    fn what_the_kernel_does_not_read_of_an_argument_changes_nothing() {
        for high in [0, 1 << 32, 0xffff_ffff << 32, 1 << 63] {
            for family in 0..46 {
                assert_eq!(allowed("socket", high | family), family != AF_VSOCK, "{high:#x} {family}");
            }
            for value in PERSONALITIES {
                assert!(allowed("personality", high | value), "{high:#x} {value:#x}");
            }
            // Addresses that are not random, and memory that can be executed.
            for value in [0x4_0000, 0x40_0000, 0xffff_fffe] {
                assert!(!allowed("personality", high | value), "{high:#x} {value:#x}");
            }
            assert!(allowed("clone", high | 0x1_0f00) && !allowed("clone", high | 0x1000_0000));
        }
    }

    #[test]
    fn capabilities_open_what_they_guard() {
        let allows = |capabilities: &[Capability], name: &str| {
            let profile = profile(&capabilities.iter().copied().collect()).unwrap();
            profile.syscalls().iter().flatten().any(|rule| {
                rule.action() == LinuxSeccompAction::ScmpActAllow
                    && rule.args().is_none()
                    && rule.names().iter().any(|other| other == name)
            })
        };
        for (capability, name) in [
            (Capability::SysAdmin, "mount"),
            (Capability::SysChroot, "chroot"),
            (Capability::SysModule, "init_module"),
            (Capability::SysPtrace, "pidfd_getfd"),
        ] {
            assert!(!allows(&[], name), "{name}");
            assert!(allows(&[capability], name), "{name}");
        }
        assert!(!allows(&[], "clone"));
        assert!(allows(&[Capability::SysAdmin], "clone"));
        assert!(allows(&[], "openat2"));
    }
}
