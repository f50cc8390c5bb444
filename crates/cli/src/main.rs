//! The `plywood` command: argument parsing, wiring, progress and tables.
//!
//! It decides nothing about mounts and nothing about the store: it joins `plywood-store` (which knows
//! images) with `plywood-engine` (which knows root file systems), and says what happened.

#![forbid(unsafe_code)]
#![allow(unreachable_pub, reason = "a binary exports nothing; here `pub` means: for other modules")]

mod args;
mod commands;
mod context;
mod durations;
mod output;
mod progress;
mod remedy;
mod signals;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = match args::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return remedy::unreadable(&error),
    };
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("PLYWOOD_LOG")
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn")),
        )
        .with_writer(std::io::stderr)
        // What a supervisor says goes to its log later.
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os(args::SUPERVISE).is_none())
        .without_time()
        .init();
    let json = cli.global.json;
    let outcome = commands::run(cli);
    match outcome {
        Ok(code) => code,
        Err(error) => remedy::report(&error, json),
    }
}
