//! What runs in the container: arguments, environment, directory, capabilities, limits.

use std::str::FromStr;

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Capabilities, Capability, LinuxCapabilities, LinuxCapabilitiesBuilder, PosixRlimit, PosixRlimitBuilder,
    PosixRlimitType, Process, ProcessBuilder, User, UserBuilder,
};
use plywood_image::ImageConfig;

use super::{BundleError, BundleRequest, Limit, Overrides};
use crate::users::ContainerUser;

/// Where commands are searched when the image does not say.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The most open files of a process on any machine: the greatest `fs.nr_open` that Linux takes.
const MOST_FILES: u64 = 0x7fff_ffc0;

/// The capabilities a container holds unless told otherwise; all act on its own user namespace only.
const DEFAULT_CAPABILITIES: [Capability; 14] = [
    Capability::AuditWrite,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Mknod,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// Every capability, for `ALL`.
const ALL_CAPABILITIES: [Capability; 41] = [
    Capability::AuditControl,
    Capability::AuditRead,
    Capability::AuditWrite,
    Capability::BlockSuspend,
    Capability::Bpf,
    Capability::CheckpointRestore,
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::Kill,
    Capability::Lease,
    Capability::LinuxImmutable,
    Capability::MacAdmin,
    Capability::MacOverride,
    Capability::Mknod,
    Capability::NetAdmin,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetRaw,
    Capability::Perfmon,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysChroot,
    Capability::SysModule,
    Capability::SysNice,
    Capability::SysPacct,
    Capability::SysPtrace,
    Capability::SysRawio,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Syslog,
    Capability::WakeAlarm,
];

/// Changes to the default capabilities: names with or without `CAP_`, in any case, or `ALL`. Drops come first, so
/// that dropping `ALL` and adding one leaves one.
#[derive(Clone, Debug, Default)]
pub struct CapabilityChange {
    /// To add.
    pub add: Vec<String>,
    /// To take away.
    pub drop: Vec<String>,
}

/// One process limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rlimit {
    /// Name without `RLIMIT_`, in any case: `nofile`.
    pub name: String,
    /// What a process starts with; `u64::MAX` is unlimited.
    pub soft: u64,
    /// What it can raise itself to.
    pub hard: u64,
}

impl Rlimit {
    /// Reads `NAME=SOFT[:HARD]`, each a number or `unlimited`.
    pub fn parse(text: &str) -> Result<Rlimit, BundleError> {
        let bad = |why: &str| Limit::Process.refuse(text, why);
        let form = || bad("write NAME=SOFT[:HARD], such as nofile=1024:4096");
        let (name, values) = text.split_once('=').ok_or_else(form)?;
        let number = |value: &str| match value {
            "unlimited" | "-1" => Some(u64::MAX),
            _ => value.parse().ok(),
        };
        let (soft, hard) = values.split_once(':').unwrap_or((values, values));
        let limit = Rlimit {
            name: name.to_ascii_lowercase(),
            soft: number(soft).ok_or_else(form)?,
            hard: number(hard).ok_or_else(form)?,
        };
        if limit.name == "nofile" && limit.hard != u64::MAX && limit.hard > MOST_FILES {
            return Err(bad(&format!("no machine has more open files than {MOST_FILES} for a process")));
        }
        limit.to_spec().map(|_| limit)
    }

    fn to_spec(&self) -> Result<PosixRlimit, BundleError> {
        let bad = |why: &str| Limit::Process.refuse(&self.name, why);
        if self.soft > self.hard {
            return Err(bad("the soft limit is above the hard one"));
        }
        let name = format!("RLIMIT_{}", self.name.to_ascii_uppercase());
        let typ = PosixRlimitType::from_str(&name).map_err(|_| bad("no such limit, see getrlimit(2)"))?;
        Ok(PosixRlimitBuilder::default().typ(typ).soft(self.soft).hard(self.hard).build()?)
    }
}

/// The argument vector: entry point, then command. An entry point given by the caller drops the image's command.
pub fn command(image: &ImageConfig, overrides: &Overrides) -> Result<Vec<String>, BundleError> {
    let entrypoint = overrides.entrypoint.as_deref().unwrap_or(&image.entrypoint);
    let arguments = match (&overrides.command, &overrides.entrypoint) {
        (Some(command), _) => command.as_slice(),
        (None, Some(_)) => &[],
        (None, None) => &image.cmd,
    };
    let argv: Vec<String> = entrypoint.iter().chain(arguments).cloned().collect();
    if argv.first().is_none_or(String::is_empty) {
        return Err(BundleError::NoCommand);
    }
    if argv.iter().any(|argument| argument.contains('\0')) {
        return Err(BundleError::Nul("the command"));
    }
    Ok(argv)
}

/// Who the container shall run as, `USER[:GROUP]`; empty means root.
pub fn user_wanted<'a>(image: &'a ImageConfig, overrides: &'a Overrides) -> &'a str {
    overrides.user.as_deref().or(image.user.as_deref()).unwrap_or("")
}

/// The absolute directory the command starts in; the runtime makes it if it is missing.
pub fn working_directory<'a>(
    image: &'a ImageConfig,
    overrides: &'a Overrides,
) -> Result<&'a str, BundleError> {
    let wanted = overrides.workdir.as_deref().or(image.working_dir.as_deref()).unwrap_or("");
    match wanted {
        "" => Ok("/"),
        path if path.contains('\0') => Err(BundleError::Nul("the working directory")),
        path if path.starts_with('/') => Ok(path),
        path => Err(BundleError::RelativeWorkdir(path.to_owned())),
    }
}

/// Whether these are `NAME=VALUE`.
pub(super) fn variables(wanted: &[String]) -> Result<(), BundleError> {
    for variable in wanted {
        if variable.contains('\0') {
            return Err(BundleError::Nul("an environment variable"));
        }
        if variable.split_once('=').is_none_or(|(name, _)| name.is_empty()) {
            return Err(BundleError::BadVariable(variable.clone()));
        }
    }
    Ok(())
}

/// The environment, `NAME=VALUE`: `PATH`, `HOSTNAME` and `HOME` where nobody sets them, the image's, the caller's. A
/// name keeps its first place and its last value; what the image misspells is left out.
pub fn environment(
    image: &ImageConfig,
    overrides: &Overrides,
    user: &ContainerUser,
) -> Result<Vec<String>, BundleError> {
    variables(&overrides.env)?;
    let mut defaults = vec![format!("PATH={DEFAULT_PATH}")];
    defaults.extend(overrides.hostname.as_ref().map(|name| format!("HOSTNAME={name}")));
    defaults.push(format!("HOME={}", user.home));

    let usable = |variable: &&String| !variable.contains('\0');
    Ok(merged(defaults.iter().chain(image.env.iter().filter(usable)).chain(&overrides.env)))
}

/// Variables as a process has them: a name keeps its first place and its last value.
pub(super) fn merged<'a>(variables: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut environment: Vec<(&str, &str)> = Vec::new();
    for variable in variables {
        let Some((name, value)) = variable.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            continue;
        };
        match environment.iter_mut().find(|(other, _)| *other == name) {
            Some(entry) => entry.1 = value,
            None => environment.push((name, value)),
        }
    }
    environment.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

pub(super) fn process(
    request: &BundleRequest<'_>,
    capabilities: &Capabilities,
) -> Result<Process, BundleError> {
    let rlimits = request.rlimits.iter().map(Rlimit::to_spec).collect::<Result<Vec<_>, _>>()?;
    let mut process = ProcessBuilder::default()
        .terminal(false)
        .user(user(&request.user)?)
        .args(command(request.image, &request.overrides)?)
        .env(environment(request.image, &request.overrides, &request.user)?)
        .cwd(working_directory(request.image, &request.overrides)?)
        .capabilities(sets(&request.user, capabilities.clone())?)
        .no_new_privileges(false)
        .build()?;
    process.set_rlimits(Some(rlimits).filter(|rlimits| !rlimits.is_empty()));
    Ok(process)
}

/// A user, as a spec names one.
pub(super) fn user(user: &ContainerUser) -> Result<User, OciSpecError> {
    let builder = UserBuilder::default().uid(user.uid).gid(user.gid);
    match user.groups.as_slice() {
        [] => builder.build(),
        groups => builder.additional_gids(groups.to_vec()).build(),
    }
}

/// What of `held` a process of that user has. Only root starts out with it; another user can gain it by set-user-ID
/// programs inside the bounding set.
pub(super) fn sets(user: &ContainerUser, held: Capabilities) -> Result<LinuxCapabilities, OciSpecError> {
    let effective = if user.uid == 0 { held.clone() } else { Capabilities::new() };
    LinuxCapabilitiesBuilder::default()
        .bounding(held)
        .effective(effective.clone())
        .permitted(effective)
        .inheritable(Capabilities::new())
        .ambient(Capabilities::new())
        .build()
}

pub(super) fn capabilities(change: &CapabilityChange) -> Result<Capabilities, BundleError> {
    let mut held: Capabilities = DEFAULT_CAPABILITIES.into_iter().collect();
    for name in &change.drop {
        for capability in named(name)? {
            held.remove(&capability);
        }
    }
    for name in &change.add {
        held.extend(named(name)?);
    }
    Ok(held)
}

fn named(name: &str) -> Result<Vec<Capability>, BundleError> {
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    if short == "ALL" {
        return Ok(ALL_CAPABILITIES.to_vec());
    }
    ALL_CAPABILITIES
        .into_iter()
        .find(|capability| capability.to_string() == short)
        .map(|capability| vec![capability])
        .ok_or_else(|| BundleError::NoSuchCapability(name.to_owned()))
}
