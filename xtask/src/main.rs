//! Set-up, demo, tests and checks of plywood: `cargo xtask --help`.
//!
//! Every command says what it does before it does it, can be run twice, and installs what it needs (as root, by
//! apt) or prints the command that does. Nothing here is linked into plywood, and nothing here measures plywood
//! with its own code: images are made and checked by Debian's tools.
#![forbid(unsafe_code)]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a task runner talks to the person who typed it"
)]

mod bench;
mod ci;
mod demo;
mod image;
#[cfg(test)]
mod promises;
mod registry;
mod setup;
mod test;
mod vm;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use plywood_xtask::{apt, containerd, proc};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Set-up, demo, tests and checks of plywood")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Check for the programs plywood is built, tested and shown with; install what is missing
    Setup,
    /// Make the demo image: real Debian packages, one layer a package, at least 50 layers
    Image {
        /// The OCI layout directory to make
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
    /// Make the large image (at least 300 MB unpacked, few layers) of the unpack benchmark
    LargeImage {
        /// The OCI layout directory to make
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
    /// Set up, build, and start a hundred containers from a pulled image of 50 layers
    Demo,
    /// Set up and run every test
    Test {
        /// Leave the tests out that need root, and say how many those are
        #[arg(long)]
        no_root: bool,
        /// Run only the tests whose name contains this
        filter: Option<String>,
    },
    /// Get real containerds, an old one and new ones, for tests and benchmarks; installs none
    Containerd(containerd::Options),
    /// Generate the stubs of containerd's API and of CRI from the definitions in crates/containerd/proto
    Generate,
    /// Boot other kernels under emulation and run every mechanism in them
    Vm(vm::Options),
    /// Everything a landing is checked for: format, lints, dependencies, tests, docs
    Ci,
    /// Run the benchmarks one after the other and print one table
    Bench {
        /// Run only the benchmarks whose name contains this
        filter: Option<String>,
    },
}

/// The test that compares the stubs with what the definitions generate writes them when it is told to.
fn generate() -> anyhow::Result<()> {
    proc::step("Generate the stubs of containerd's API and of CRI", || {
        let mut command = proc::cargo();
        command.args(["test", "--package", "plywood-containerd", "--test", "it", "the_stubs_are"]);
        proc::run(command.env("PLYWOOD_GENERATE", "1"))
    })
}

fn main() -> ExitCode {
    let result = match Args::parse().task {
        Task::Setup => setup::run(),
        Task::Image { out } => image::demo_image(out).map(drop),
        Task::LargeImage { out } => image::large_image(out).map(drop),
        Task::Demo => demo::run(),
        Task::Test { no_root, filter } => test::run(no_root, filter.as_deref()),
        Task::Containerd(options) => setup::ensure().and_then(|()| containerd::run(&options)),
        Task::Generate => generate(),
        Task::Vm(options) => vm::run(&options),
        Task::Ci => ci::run(),
        Task::Bench { filter } => bench::run(filter.as_deref()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
