//! Runs every mechanism that works on the running kernel and says how it went, one JSON object a line.
//!
//! The guest's half of the `vm_` tests: `cargo xtask vm` links this statically and boots other kernels to it. It
//! needs root, an ext4 directory of its own and a machine nobody else uses, since it compares mount tables and
//! descriptors before and after.
//!
//! ```text
//! vm_probe DIR           all checks, below DIR
//!   vm_probe join        (itself) enters the user namespace on its standard input, becomes its root, goes on as
//!   vm_probe inside      (itself) a container's process whose working directory is the rootfs
//! ```
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "its output is what it is for")]

mod case;
mod inside;
mod rig;
mod tree;

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

use plywood_engine::capabilities::Capabilities;
use plywood_engine::mechanism::Mechanism;
use serde_json::{Value, json};

use crate::rig::Rig;

/// What a check found out, or why it failed.
type Checked<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["join"] => inside::join(),
        ["inside"] => inside::check(),
        [dir] => checks(Path::new(dir)),
        _ => Err("usage: vm_probe DIR".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&json!({"check": "error", "outcome": "failed", "detail": chain(&*error)}));
            ExitCode::FAILURE
        }
    }
}

fn checks(dir: &Path) -> Checked {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    say(&json!({"check": "kernel", "release": release.trim()}));
    let rig = Rig::new(dir)?;
    let capabilities = rig.leaving_nothing(|| Ok(Capabilities::probe(dir)?))?;
    let chosen = capabilities.choose();
    say(&json!({
        "check": "capabilities",
        "chosen": chosen.mechanism,
        "passed_over": chosen.passed_over,
        "capabilities": capabilities,
    }));
    report(json!({"check": "abilities"}), || abilities(&rig, &capabilities));
    for mechanism in Mechanism::ALL {
        if let Err(reason) = mechanism.requires(&capabilities) {
            say(
                &json!({"check": "rootfs", "mechanism": mechanism, "outcome": "unavailable", "detail": reason}),
            );
            continue;
        }
        for (name, set) in rig.sets() {
            let what =
                json!({"check": "rootfs", "mechanism": mechanism, "case": name, "layers": set.count()});
            report(what, || case::rootfs(&rig, &capabilities, mechanism, set));
        }
        let what = json!({"check": "rootfs", "mechanism": mechanism, "case": "undo"});
        report(what, || case::undo(&rig, &capabilities, mechanism));
    }
    say(&json!({"check": "end"}));
    Ok(())
}

/// The kernel crate's own probes must say what the trials of whole mechanisms say.
fn abilities(rig: &Rig, capabilities: &Capabilities) -> Checked<case::Outcome> {
    let found = rig.leaving_nothing(|| Ok(plywood_kernel::probe::all(rig.dir())?))?;
    let pairs = [
        ("mount_api", found.mount_api, &capabilities.mount_api),
        ("idmapped layers", found.idmapped_layers, &capabilities.private),
        ("lowerdir+", found.overlay_lower_append, &capabilities.append_layers),
        ("detached layers", found.detached_layers, &capabilities.detached),
        ("idmapped overlay", found.idmapped_overlay, &capabilities.idmapped_overlay),
    ];
    for (name, probed, tried) in pairs {
        if probed != tried.is_yes() {
            return Err(format!("{name}: the probe says {probed}, the trial {tried:?}").into());
        }
    }
    Ok(case::Outcome::Passed(format!("{found:?}")))
}

/// Runs a check and prints how it went.
fn report(mut what: Value, check: impl FnOnce() -> Checked<case::Outcome>) {
    let start = std::time::Instant::now();
    let (outcome, detail) = match check() {
        Ok(case::Outcome::Passed(detail)) => ("passed", detail),
        Ok(case::Outcome::Refused(reason)) => ("refused", reason),
        Err(error) => ("failed", chain(&*error)),
    };
    what["outcome"] = outcome.into();
    what["detail"] = detail.into();
    what["ms"] = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX).into();
    say(&what);
}

fn say(line: &Value) {
    println!("{line}");
}

fn chain(error: &(dyn Error + 'static)) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_words = inner.to_string();
        if !words.ends_with(&inner_words) {
            words += &format!(": {inner_words}");
        }
        source = inner.source();
    }
    words
}
