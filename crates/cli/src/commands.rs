//! One module a command, each with a function `run`.

mod account;
mod containers;
mod doctor;
mod exec;
mod explain;
mod fetch;
mod images;
mod import;
mod lockbench;
mod logs;
mod prune;
mod ps;
mod pull;
mod rm;
mod rmi;
mod run;
mod shell;
mod stop;
mod storm;

use std::process::ExitCode;

use crate::args::{Cli, Command};
use crate::context::Context;

/// Runs the command of the command line.
///
/// # Errors
/// Whatever the command failed with; [`crate::remedy`] prints it.
pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let context = Context::new(&cli.global)?;
    match cli.command {
        Command::Pull(args) => pull::run(&context, &args),
        Command::Import(args) => import::run(&context, &args),
        Command::Images => images::run(&context),
        Command::Rmi(args) => rmi::run(&context, &args),
        Command::Prune => prune::run(&context),
        Command::Run(args) => run::run(&context, &args),
        Command::Ps(args) => ps::run(&context, &args),
        Command::Stop(args) => stop::run(&context, &args),
        Command::Rm(args) => rm::run(&context, &args),
        Command::Exec(args) => exec::run(&context, &args),
        Command::Logs(args) => logs::run(&context, &args),
        Command::Explain(args) => explain::run(&context, &args),
        Command::Lockbench(args) => lockbench::run(&context, &args),
        Command::Storm(args) => storm::run(&context, &args),
        Command::Doctor => doctor::run(&context),
        Command::Completions { shell } => {
            context.refuse_json("completions", "a script")?;
            shell::completions(shell)
        }
        Command::Man { dir } => shell::man(&dir),
    }
}
