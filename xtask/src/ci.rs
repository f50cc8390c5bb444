//! Everything a landing is checked for, the same here and in CI.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::Result;

use crate::proc::{cargo, output, run as show, say, step, target_dir, workspace};
use crate::setup;

/// The release of cargo-deny that `deny.toml` is written for.
const DENY: &str = "0.20.2";

/// The kernels CI boots: the oldest, which needs every fallback, and the newest, which has every mechanism.
const VM_KERNELS: &str = "6.1,7.3";

/// `cargo xtask ci`.
pub(crate) fn run() -> Result<()> {
    let start = Instant::now();
    setup::ensure()?;
    cargo_component("fmt", "rustfmt", "rustfmt")?;
    cargo_component("clippy", "clippy", "rust-clippy")?;

    step("Formatting", || show(cargo().args(["fmt", "--all", "--check"])))?;
    step("Lints, on every target", || {
        show(cargo().args(["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]))
    })?;
    let deny = deny()?;
    step(
        "Dependencies: licences, duplicates, bans, sources (advisories need a database from the internet)",
        || {
            let mut command = Command::new(&deny);
            // cargo tells its subcommands which cargo to use; do as it does.
            command.env("CARGO", cargo().get_program()).current_dir(workspace());
            show(command.args(["--workspace", "--locked", "check", "bans", "licenses", "sources"]))
        },
    )?;
    step("Tests: cargo xtask test", || {
        // A snapshot that differs fails; it is not for CI to write the new one.
        show(cargo().env("INSTA_UPDATE", "no").args(["xtask", "test"]))
    })?;
    step("Tests on other kernels: cargo xtask vm", || {
        show(cargo().args(["xtask", "vm", "--kernel", VM_KERNELS]))
    })?;
    step("Emulated machines of several sockets, dies and nodes: cargo xtask vm --topology", || {
        show(cargo().args(["xtask", "vm", "--topology"]))
    })?;
    step("Documentation builds without a warning", || {
        let mut command = cargo();
        command.env("RUSTDOCFLAGS", "-D warnings");
        show(command.args(["doc", "--workspace", "--no-deps", "--document-private-items", "--locked"]))
    })?;
    println!("==> All checks passed in {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// Makes sure `cargo <name>` is there: from rustup where it manages the toolchain, else from Debian.
fn cargo_component(name: &str, component: &str, package: &str) -> Result<()> {
    if output(cargo().args([name, "--version"])).is_ok() {
        return Ok(());
    }
    step(&format!("Install cargo {name}"), || {
        if output(Command::new("rustup").arg("--version")).is_ok() {
            show(Command::new("rustup").args(["component", "add", component]))
        } else {
            setup::install(&[package])
        }
    })
}

/// cargo-deny: the one on the PATH, else one built under the target directory.
fn deny() -> Result<PathBuf> {
    let on_path = PathBuf::from("cargo-deny");
    if output(Command::new(&on_path).arg("--version")).is_ok() {
        return Ok(on_path);
    }
    let tools = target_dir().join("tools");
    let built = tools.join("bin/cargo-deny");
    if output(Command::new(&built).arg("--version")).is_ok_and(|version| version.contains(DENY)) {
        return Ok(built);
    }
    step(&format!("Build cargo-deny {DENY}"), || {
        // It runs for a second and takes minutes to optimise.
        say("unoptimised, which is a third of the compile time");
        show(
            cargo()
                .args(["install", "cargo-deny", "--locked", "--version", DENY, "--root"])
                .arg(&tools)
                .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0")
                .env("CARGO_PROFILE_RELEASE_LTO", "off")
                .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16"),
        )
    })?;
    Ok(built)
}
