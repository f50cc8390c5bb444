//! Other kernels: boots Debian's cloud kernels under QEMU's software emulation and runs every mechanism in them.
//!
//! One kernel can only show its own rung of the ladder. Here each is run where it is the one that is chosen, with the
//! very code that launches containers, linked statically into a program that is all the guest starts.
//!
//! ```text
//! target/apt/                an apt root of its own: sources, lists, cache; nothing is ever installed from it
//! target/vm/kernels/6.1/     vmlinuz, modules in loading order, and what they were unpacked from
//!           build/           the guest program
//!           run/             disk image and initramfs
//!           logs/6.1.*       what the kernel and the guest program said last
//! ```

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use crate::proc::{say, step, target_dir};
use crate::{apt, setup};

mod boot;
mod guest;
mod kernel;
mod release;
mod report;
mod topology;

use report::Report;

/// A kernel and the mechanism that has to be chosen on it.
struct Expected {
    version: &'static str,
    chosen: &'static str,
    /// Whether it is run when nobody asks for anything; the others are further steps on the same rung.
    default: bool,
}

const fn expected(version: &'static str, chosen: &'static str, default: bool) -> Expected {
    Expected { version, chosen, default }
}

const KERNELS: [Expected; 7] = [
    expected("6.1", "private", true),
    expected("6.12", "private", true),
    expected("6.16", "detached", false),
    expected("6.17", "detached", false),
    expected("6.18", "detached", true),
    expected("7.2", "detached", false),
    expected("7.3", "idmapped-overlay", true),
];

/// What is asked for on the command line.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Kernels to boot, comma-separated: 6.1, 6.12, 6.16, 6.17, 6.18, 7.2, 7.3
    #[arg(long, value_name = "VERSION", value_delimiter = ',')]
    kernel: Vec<String>,
    /// Look for newer kernels, instead of using those unpacked before
    #[arg(long)]
    update: bool,
    /// The Debian mirror to download from [default: the one this machine's apt uses]
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
    /// Instead, boot emulated machines of several sockets, dies and nodes and check what is read of them [default
    /// kernel: 6.1]
    #[arg(long)]
    topology: bool,
}

/// One processor and no more memory than it needs.
const HARDWARE: [&str; 6] = ["-cpu", boot::CPU, "-smp", "1", "-m", "1024"];

/// `cargo xtask vm`.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut wanted = wanted(&options.kernel)?;
    if options.topology && options.kernel.is_empty() {
        wanted.truncate(1);
    }
    if !cfg!(target_arch = "x86_64") {
        bail!("the guests are x86-64; so must be the machine that builds them");
    }
    setup::ensure_for_vm()?;
    let dir = dir();
    fs::create_dir_all(dir.join("logs"))?;
    let kernels = step("Unpack the kernels", || {
        let mut apt = apt::Root::new(options.mirror.clone(), options.update);
        wanted
            .iter()
            .map(|wanted| kernel::get(&dir, wanted.version, &mut apt, options.update))
            .collect::<Result<Vec<_>>>()
    })?;
    if options.topology {
        return topology::run(&dir, &kernels);
    }
    let program = step("Build the guest program, statically linked", || guest::build(&dir))?;
    let disk = step("Make the guest's disk", || guest::disk(&dir, &program))?;

    let mut reports = Vec::new();
    for (wanted, kernel) in wanted.iter().zip(&kernels) {
        let report = step(&format!("Boot {} and run every mechanism", kernel.release), || {
            let initramfs = guest::initramfs(&dir, kernel)?;
            let machine = boot::Machine {
                name: &kernel.version,
                kernel,
                hardware: &HARDWARE,
                initramfs: &initramfs,
                disk: Some(&disk),
                logs: &dir.join("logs"),
            };
            let report = machine.run(|said| {
                let mut report = Report::parse(&said.lines)?;
                report.seconds = said.seconds;
                report.add_console(&said.console);
                Ok(report.is_complete().then_some(report))
            })?;
            say(report.line());
            Ok(report)
        })?;
        reports.push((*wanted, report));
    }
    let complaints: Vec<String> = reports
        .iter()
        .flat_map(|(wanted, report)| {
            report
                .complaints(wanted.chosen)
                .into_iter()
                .map(|complaint| format!("{}: {complaint}", wanted.version))
        })
        .collect();
    let reports: Vec<(&str, &Report)> =
        reports.iter().map(|(wanted, report)| (wanted.version, report)).collect();
    println!("\n{}", report::table(&reports));
    if !complaints.is_empty() {
        bail!(
            "{} checks failed; logs are in {}\n\n{}",
            complaints.len(),
            dir.join("logs").display(),
            complaints.join("\n")
        );
    }
    Ok(())
}

fn dir() -> PathBuf {
    target_dir().join("vm")
}

fn wanted(versions: &[String]) -> Result<Vec<&'static Expected>> {
    if versions.is_empty() {
        return Ok(KERNELS.iter().filter(|kernel| kernel.default).collect());
    }
    let find = |version: &String| {
        KERNELS.iter().find(|kernel| kernel.version == version).with_context(|| {
            let known: Vec<&str> = KERNELS.iter().map(|kernel| kernel.version).collect();
            format!("nothing is known about kernel {version:?}; there are {}", known.join(", "))
        })
    };
    versions.iter().map(find).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_chosen_by_version() {
        let versions = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            wanted(&names).map(|kernels| kernels.iter().map(|kernel| kernel.version).collect::<Vec<_>>())
        };
        assert_eq!(versions(&[]).unwrap(), ["6.1", "6.12", "6.18", "7.3"]);
        assert_eq!(versions(&["7.3", "6.1"]).unwrap(), ["7.3", "6.1"]);
        assert!(versions(&["5.10"]).unwrap_err().to_string().contains("5.10"));
    }

    #[test]
    fn every_expectation_is_a_rung() {
        assert!(KERNELS.iter().all(|kernel| report::LADDER.contains(&kernel.chosen)));
    }
}
