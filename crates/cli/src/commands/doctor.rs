//! `plywood doctor`: what this node can do, what will be used, and why not better.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use plywood_engine::capabilities::{Answer, Capabilities};
use plywood_engine::cgroup::Cgroups;
use plywood_engine::idrange::{self, EtcFiles, IdLease, IdPool, IdsInUse, MachineIds};
use plywood_engine::launch::RunDirectories;
use plywood_engine::mechanism::Mechanism;
use plywood_engine::runtime;
use plywood_kernel::table;
use rustix::fs::StatVfsMountFlags;
use serde::Serialize;
use serde_json::json;

use crate::context::{BE_ADMIN, Context, NOT_ADMIN, may_mount};
use crate::output;

/// Mounts in the host's table above which every container pays noticeably: a mount namespace copied with 1,000 of
/// them took 2-4 ms instead of under 1 ms, on two cores.
const MANY_MOUNTS: usize = 1000;
/// Fewer free ranges than this, and a burst of containers runs out.
const FEW_RANGES: usize = 100;

/// Fewer free inodes than this, and an ordinary image does not fit.
const FEW_INODES: u64 = 10_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Severity {
    Ok,
    Note,
    Warning,
    Error,
}

#[derive(Debug, Serialize)]
struct Finding {
    id: &'static str,
    severity: Severity,
    message: String,
    remedy: Option<String>,
}

impl Finding {
    fn new(id: &'static str, severity: Severity, message: impl Into<String>) -> Self {
        Self { id, severity, message: message.into(), remedy: None }
    }

    fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

/// Looks at the node. Exit code 1 if nothing could be launched.
pub fn run(context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.store()?;
    let mut findings = Vec::new();
    let read_only = rustix::fs::statvfs(store.root().path())?.f_flag.contains(StatVfsMountFlags::RDONLY);
    // Mechanisms are tried in the state root. That it cannot be written to is no fault of the kernel's.
    let capabilities = if read_only { None } else { probe(&store, &mut findings) };
    let mechanism = capabilities.as_ref().map(|capabilities| kernel(capabilities, &mut findings));
    file_system(store.root().path(), &mut findings)?;
    let ids = ids(&store, &context.directories(), &mut findings)?;
    let runtime = runtimes(&context.directories().run, &mut findings);
    let mounts = table::count()?;
    host_table(mounts, &mut findings);
    images(&store, &mut findings)?;

    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let broken = findings.iter().any(|finding| finding.severity == Severity::Error);
    if context.json {
        output::json(&json!({
            "kernel": release.trim(),
            "root": context.root,
            "mechanism": mechanism,
            "capabilities": capabilities,
            "runtime": runtime,
            "free_id_ranges": ids,
            "host_mounts": mounts,
            "findings": findings,
        }))?;
    } else {
        let rows: Vec<[String; 3]> = findings
            .iter()
            .map(|finding| {
                let severity = match finding.severity {
                    Severity::Ok => "ok",
                    Severity::Note => "note",
                    Severity::Warning => "WARNING",
                    Severity::Error => "ERROR",
                };
                let message = match &finding.remedy {
                    Some(remedy) => format!("{}; {remedy}", finding.message),
                    None => finding.message.clone(),
                };
                [severity.to_owned(), finding.id.to_owned(), message]
            })
            .collect();
        output::text_out(&output::table(["", "WHAT", "FOUND"], rows))?;
        let verdict = if broken { "containers cannot be launched here" } else { "ready to launch" };
        output::text_out(&format!("\nLinux {}: {verdict}\n", release.trim()))?;
    }
    Ok(if broken { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn probe(store: &plywood_store::Store, findings: &mut Vec<Finding>) -> Option<Capabilities> {
    // The copying mechanism would seem to work, but no container could be started.
    if !may_mount() {
        findings.push(Finding::new("privileges", Severity::Error, NOT_ADMIN).remedy(BE_ADMIN));
        return None;
    }
    let probed = Capabilities::probe(&super::run::scratch(store));
    probed
        .inspect_err(|error| {
            findings.push(Finding::new("kernel", Severity::Error, crate::remedy::chain(error)));
        })
        .ok()
}

fn kernel(capabilities: &Capabilities, findings: &mut Vec<Finding>) -> &'static str {
    let chosen = capabilities.choose();
    let name = chosen.mechanism.name();
    findings.push(Finding::new("mechanism", Severity::Ok, format!("{name} will be used")));
    for (mechanism, reason) in &chosen.passed_over {
        findings.push(Finding::new(
            "mechanism",
            Severity::Note,
            format!("{mechanism} would be better, but {reason}"),
        ));
    }
    if let (Mechanism::Copy, Answer::Error { message }) = (chosen.mechanism, &capabilities.private) {
        let message = format!("mechanisms that need not copy every file could not be tried: {message}");
        findings.push(Finding::new("idmapped-layers", Severity::Error, message));
    }
    if let Answer::No { reason } = &capabilities.private {
        findings.push(
            Finding::new(
                "idmapped-layers",
                Severity::Warning,
                format!("every file of an image is copied for each container: {reason}"),
            )
            .remedy("use Linux 5.19 or newer, and a state root on ext4, xfs or btrfs"),
        );
    }
    name
}

fn file_system(root: &Path, findings: &mut Vec<Finding>) -> anyhow::Result<()> {
    let entries = table::list()?;
    let covering = table::covering(&entries, root);
    let kind = covering.map_or("unknown", |entry| entry.fs_type.as_str());
    let stat = rustix::fs::statvfs(root)?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let place = format!("{} on {kind}", root.display());
    let finding = |severity, message| Finding::new("state-root", severity, message);
    // File systems that make inodes as they need them say that they have none at all.
    let few_inodes = stat.f_files > 0 && stat.f_favail < FEW_INODES;
    findings.push(if stat.f_flag.contains(StatVfsMountFlags::RDONLY) {
        let what = format!("{place} is read-only: what there is can be listed, and nothing else be done");
        finding(Severity::Error, what).remedy(crate::remedy::WRITABLE)
    } else if few_inodes {
        finding(
            Severity::Warning,
            format!("{place}, {} free (`df -i`)", output::count(stat.f_favail, "inode")),
        )
        .remedy("remove some files; `plywood prune` removes what nothing uses")
    } else if free < 1 << 30 {
        finding(Severity::Warning, format!("{place}, {} free", output::size(free)))
            .remedy("free some space; `plywood prune` removes what nothing uses")
    } else {
        finding(Severity::Ok, format!("{place}, {} free", output::size(free)))
    });
    Ok(())
}

fn ids(
    store: &plywood_store::Store,
    directories: &RunDirectories,
    findings: &mut Vec<Finding>,
) -> anyhow::Result<Option<usize>> {
    let pool =
        EtcFiles::read(Path::new("/etc")).and_then(|files| IdPool::new(&files, idrange::DEFAULT_LENGTH));
    match pool {
        Ok(pool) => {
            // No register: nothing has run since the boot.
            let mut in_use = if directories.ids().exists() {
                MachineIds::open(&directories.ids())?.in_use()?
            } else {
                IdsInUse::default()
            };
            in_use.extend(store.leases()?.iter().map(|lease| IdLease { uid: lease.uid, gid: lease.gid }));
            // One at least, so that a pool of none is refused, with the reason.
            let (free, hint) = match idrange::allocate(&pool, &in_use, pool.capacity().max(1)) {
                Ok(all) => (all.len(), None),
                Err(refused) => (refused.free, Some(refused.hint)),
            };
            let message = format!(
                "{} of {} ids, from {}",
                output::count(free, "free range"),
                pool.length(),
                pool.source()
            );
            let severity = match free {
                0 => Severity::Error,
                1..FEW_RANGES => Severity::Warning,
                _ => Severity::Ok,
            };
            let finding = Finding::new("id-ranges", severity, message);
            findings.push(match hint {
                _ if severity == Severity::Ok => finding,
                Some(hint) => finding.remedy(hint),
                None => finding.remedy("give user `plywood` more in /etc/subuid and /etc/subgid"),
            });
            Ok(Some(free))
        }
        Err(error) => {
            findings.push(
                Finding::new("id-ranges", Severity::Error, crate::remedy::chain(&error))
                    .remedy("mend /etc/subuid and /etc/subgid"),
            );
            Ok(None)
        }
    }
}

fn runtimes(run: &Path, findings: &mut Vec<Finding>) -> Option<PathBuf> {
    let cgroups = match Cgroups::detect() {
        Ok(cgroups) => cgroups,
        Err(error) => {
            findings.push(Finding::new("cgroups", Severity::Error, crate::remedy::chain(&error)));
            return None;
        }
    };
    findings.push(Finding::new("cgroups", Severity::Ok, cgroups.layout().to_string()));
    let path = std::env::var_os("PATH").unwrap_or_default();
    for candidate in runtime::survey(&path, cgroups.layout()) {
        if let Some(refusal) = candidate.refusal {
            let message = format!("{} cannot be used: {refusal}", candidate.wanted);
            findings.push(Finding::new("runtime", Severity::Note, message));
        }
    }
    match runtime::find(None, &path, cgroups.layout(), run) {
        Ok(runtime) => {
            findings.push(Finding::new("runtime", Severity::Ok, format!("{runtime} will be used")));
            Some(runtime.path().to_owned())
        }
        Err(error) => {
            findings.push(Finding::new("runtime", Severity::Error, error.to_string()));
            None
        }
    }
}

fn host_table(mounts: usize, findings: &mut Vec<Finding>) {
    let message = format!("{} in this namespace", output::count(mounts, "mount"));
    if mounts < MANY_MOUNTS {
        findings.push(Finding::new("mount-table", Severity::Ok, message));
        return;
    }
    findings.push(
        Finding::new(
            "mount-table",
            Severity::Warning,
            format!("{message}; each new container of any runtime copies them all"),
        )
        .remedy("look for leaked mounts: `findmnt`"),
    );
}

fn images(store: &plywood_store::Store, findings: &mut Vec<Finding>) -> anyhow::Result<()> {
    let mut without = 0;
    let images = store.images()?;
    for image in &images {
        if let Some(chain_id) = image.chain_id.as_ref().filter(|_| image.layers.len() > 1)
            && store.find_flat(chain_id)?.is_none()
        {
            without += 1;
        }
    }
    let message = format!("{}, {without} without a flat tree", output::count(images.len(), "image"));
    let severity = if without == 0 { Severity::Ok } else { Severity::Note };
    findings.push(Finding::new("images", severity, message));
    Ok(())
}
