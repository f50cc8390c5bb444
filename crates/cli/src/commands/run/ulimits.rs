//! Process limits of containers that are above our own: the runtime sets them inside the container, where nobody may raise
//! one. So we raise our own before, which the runtime inherits.

use plywood_engine::bundle::Rlimit;
use rustix::process::{Resource, getrlimit, setrlimit};

use crate::remedy::Advised;

/// Makes room for these limits.
///
/// # Errors
/// The kernel refuses to raise one that far.
pub fn make_room(wanted: &[Rlimit]) -> Result<(), Advised> {
    for limit in wanted {
        // One that cannot be raised is the runtime's to judge.
        let Some(resource) = resource(&limit.name) else { continue };
        let mut ours = getrlimit(resource);
        let Some(most) = ours.maximum.filter(|most| limit.hard > *most) else { continue };
        ours.maximum = Some(limit.hard).filter(|hard| *hard != u64::MAX);
        setrlimit(resource, ours).map_err(|errno| refused(limit, most, errno))?;
    }
    Ok(())
}

fn refused(limit: &Rlimit, most: u64, errno: rustix::io::Errno) -> Advised {
    let (name, hard) = (&limit.name, limit.hard);
    let hard = if hard == u64::MAX { "unlimited".to_owned() } else { hard.to_string() };
    let sysctl = std::fs::read_to_string("/proc/sys/fs/nr_open").ok().filter(|_| name == "nofile");
    let beyond = sysctl.and_then(|text| text.trim().parse().ok()).filter(|allowed| limit.hard > *allowed);
    match beyond {
        Some(allowed) => Advised::new(
            format!(
                "--ulimit: {name}={hard} is more than this machine lets a process have, which is {allowed}"
            ),
            format!("give {allowed} or less, or raise that: `sysctl fs.nr_open=COUNT`"),
        ),
        None => Advised::new(
            format!("--ulimit: {name}={hard} is above the hard limit of this process, {most}: {errno}"),
            format!(
                "give {most} or less, or raise the limit before: `ulimit -H`, in a unit Limit{}",
                name.to_uppercase()
            ),
        ),
    }
}

fn resource(name: &str) -> Option<Resource> {
    Some(match name {
        "as" => Resource::As,
        "core" => Resource::Core,
        "cpu" => Resource::Cpu,
        "data" => Resource::Data,
        "fsize" => Resource::Fsize,
        "locks" => Resource::Locks,
        "memlock" => Resource::Memlock,
        "msgqueue" => Resource::Msgqueue,
        "nice" => Resource::Nice,
        "nofile" => Resource::Nofile,
        "nproc" => Resource::Nproc,
        "rss" => Resource::Rss,
        "rtprio" => Resource::Rtprio,
        "rttime" => Resource::Rttime,
        "sigpending" => Resource::Sigpending,
        "stack" => Resource::Stack,
        _ => return None,
    })
}
