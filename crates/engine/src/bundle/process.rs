//! What runs in the container: arguments, environment, directory, capabilities, limits.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
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

/// The most that arguments and environment can take together, in bytes, a pointer for each included: three quarters of
/// the largest stack the kernel counts with (`_STK_LIM`, since Linux 4.13), however large the limit on stacks is.
const EXEC_BYTES: usize = (8 << 20) / 4 * 3;

/// The longest path a call takes, its NUL included (`PATH_MAX`).
const PATH_MAX: usize = 4096;

/// Characters of a name that is too long which an error shows.
const SHOWN: usize = 40;

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
    match overrides.workdir.as_deref().or(image.working_dir.as_deref()).unwrap_or("") {
        "" => Ok("/"),
        path => absolute(path),
    }
}

/// Whether a process can start in that directory, whatever is there.
pub(super) fn absolute(directory: &str) -> Result<&str, BundleError> {
    match directory {
        path if path.contains('\0') => Err(BundleError::Nul("the working directory")),
        path if path.len() >= PATH_MAX => {
            let (what, bytes) = ("the working directory".to_owned(), path.len());
            Err(BundleError::TooLong { what, bytes, limit: PATH_MAX - 1 })
        }
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
    merged(defaults.iter().chain(image.env.iter().filter(usable)).chain(&overrides.env))
}

/// Variables as a process has them: a name keeps its first place and its last value. One that is too long is refused.
pub(super) fn merged<'a>(variables: impl Iterator<Item = &'a String>) -> Result<Vec<String>, BundleError> {
    let mut environment: Vec<&str> = Vec::new();
    let mut places: HashMap<&str, usize> = HashMap::new();
    for variable in variables {
        let Some((name, _)) = variable.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            continue;
        };
        can_be_passed(variable, || {
            format!("environment variable `{}`", name.chars().take(SHOWN).collect::<String>())
        })?;
        match places.entry(name) {
            Entry::Occupied(place) => environment[*place.get()] = variable,
            Entry::Vacant(place) => {
                place.insert(environment.len());
                environment.push(variable);
            }
        }
    }
    Ok(environment.into_iter().map(str::to_owned).collect())
}

/// Whether `execve` takes this as one argument or variable: with its NUL 32 pages are the most (`MAX_ARG_STRLEN`).
fn can_be_passed(text: &str, what: impl FnOnce() -> String) -> Result<(), BundleError> {
    let limit = 32 * rustix::param::page_size() - 1;
    if text.len() > limit {
        return Err(BundleError::TooLong { what: what(), bytes: text.len(), limit });
    }
    Ok(())
}

/// Whether `execve` takes them: each argument, and all together.
pub(super) fn fit(argv: &[String], environment: &[String]) -> Result<(), BundleError> {
    for (index, argument) in argv.iter().enumerate() {
        can_be_passed(argument, || format!("argument {index} of the command"))?;
    }
    let bytes = argv.iter().chain(environment).map(|text| text.len() + 1 + size_of::<usize>()).sum();
    if bytes > EXEC_BYTES {
        let what = format!("the command and its {} environment variables", environment.len());
        return Err(BundleError::TooLong { what, bytes, limit: EXEC_BYTES });
    }
    Ok(())
}

pub(super) fn process(
    request: &BundleRequest<'_>,
    capabilities: &Capabilities,
) -> Result<Process, BundleError> {
    let rlimits = request.rlimits.iter().map(Rlimit::to_spec).collect::<Result<Vec<_>, _>>()?;
    let argv = command(request.image, &request.overrides)?;
    let environment = environment(request.image, &request.overrides, &request.user)?;
    fit(&argv, &environment)?;
    let mut process = ProcessBuilder::default()
        .terminal(false)
        .user(user(&request.user)?)
        .args(argv)
        .env(environment)
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
