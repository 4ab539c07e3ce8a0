//! The one binary. Wiring only: which commands there are, and which implementations the roles
//! are given.
//!
//! Promises: an error is one readable line with its causes, says what to do where we know it, and
//! exits with 1 (2 for a command line that cannot be read).

mod bootstrap;
mod commands;
mod logging;
mod roles;
mod settings;
mod supervisor;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use settings::{ControlOptions, EdgeOptions, Options, Settings};

/// A self-hosted, white-label application platform.
#[derive(Debug, Parser)]
#[command(
    name = "miosa",
    version = concat!(env!("CARGO_PKG_VERSION"), " (", env!("MIOSA_COMMIT"), ")"),
    after_help = "Examples:\n  \
                  miosa doctor\n  \
                  miosa up --data-dir /srv/miosa --http 0.0.0.0:80 --https 0.0.0.0:443\n  \
                  miosa status --data-dir /srv/miosa\n\n\
                  Exit codes: 0 done, 1 it failed and the error says why, 2 the command line is wrong."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the platform on this machine and keep it running.
    ///
    /// Runs in the foreground. SIGTERM drains and ends it and leaves apps running; SIGHUP replaces
    /// the edge without a failed request.
    #[command(after_help = "Example:\n  \
        miosa up --data-dir /srv/miosa --http 0.0.0.0:80 --https 0.0.0.0:443 \\\n    \
        --base-domain example.com --apps-domain example.app")]
    Up(Options),
    /// Stop the platform of a data folder and remove every workload and host object of it.
    ///
    /// Apps, artifacts and the database stay; `up` brings everything back.
    #[command(after_help = "Example:\n  miosa down --data-dir /srv/miosa")]
    Down(commands::down::Arguments),
    /// Show what runs, what fails, and how full the warm pool is.
    #[command(after_help = "Examples:\n  \
        miosa status --data-dir /srv/miosa\n  \
        miosa status --json | jq .monitor\n\n\
        Exit code 1: no platform runs on that folder, or it does not answer.")]
    Status(commands::status::Arguments),
    /// Show what this machine lacks and how to get it.
    #[command(after_help = "Example:\n  miosa doctor --data-dir /srv/miosa\n\n\
        Exit code 1: the platform cannot run here yet.")]
    Doctor(commands::doctor::Arguments),
    /// Check a configuration file, print its schema.
    #[command(subcommand)]
    Config(commands::config::Command),
    /// Build and list templates.
    #[command(subcommand)]
    Template(commands::template::Command),
    /// Make and list tenants.
    #[command(subcommand)]
    Tenant(commands::tenant::Command),
    /// Show and set what the warm pool keeps.
    #[command(subcommand)]
    Pool(commands::pool::Command),
    /// Make sandboxes, list them, run commands in them.
    #[command(subcommand)]
    Sandbox(commands::sandbox::Command),
    /// Publish the files of a sandbox as an app and print its address.
    #[command(after_help = "Example:\n  miosa deploy 0198c5c4-… --name booking --tenant cliniciq")]
    Deploy(commands::app::Deploy),
    /// End the build of a version, which fails; what serves goes on.
    #[command(after_help = "Examples:\n  miosa cancel booking\n  miosa cancel booking --version 3")]
    Cancel(commands::app::Cancel),
    /// Show what an app printed, or its build if it never ran.
    #[command(after_help = "Example:\n  miosa logs booking --lines 50")]
    Logs(commands::app::Logs),
    /// Serve an older version of an app again.
    #[command(
        after_help = "Examples:\n  miosa rollback booking\n  miosa rollback booking --version 3"
    )]
    Rollback(commands::app::Rollback),
    /// Print what makes a shell complete these commands.
    #[command(after_help = "Examples:\n  \
        miosa completions bash > /etc/bash_completion.d/miosa\n  \
        miosa completions zsh > ~/.zfunc/_miosa\n  \
        miosa completions fish > ~/.config/fish/completions/miosa.fish")]
    Completions(commands::completions::Arguments),
    /// Run the edge alone (`up` does this for you).
    #[command(after_help = "Example:\n  miosa edge --data-dir /srv/miosa --https 0.0.0.0:443")]
    Edge(EdgeOptions),
    /// Run control alone (`up` does this for you).
    #[command(after_help = "Example:\n  miosa control --data-dir /srv/miosa")]
    Control(ControlOptions),
}

impl Command {
    /// What is logged: roles tell what they do, commands only what is wrong.
    const fn log_level(&self) -> &'static str {
        match self {
            Self::Up(_) | Self::Edge(_) | Self::Control(_) => "info",
            _ => "warn",
        }
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    logging::start(cli.command.log_level());
    match run(cli.command) {
        Ok(code) => code,
        Err(error) => {
            logging::fail(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Up(options) => {
            roles::require_root("up")?;
            let settings = Settings::load(&options)?;
            commands::doctor::require(&settings.data_dir)?;
            supervisor::run(&settings)?;
        }
        Command::Edge(options) => roles::edge::run(&Settings::load(&options.into())?)?,
        Command::Control(options) => {
            roles::require_root("control")?;
            roles::control::run(&Settings::load(&options.into())?)?;
        }
        Command::Down(arguments) => commands::down::run(&arguments)?,
        Command::Status(arguments) => commands::status::run(&arguments)?,
        Command::Doctor(arguments) => commands::doctor::run(&arguments)?,
        Command::Config(command) => commands::config::run(&command)?,
        Command::Template(command) => commands::template::run(&command)?,
        Command::Pool(command) => commands::pool::run(&command)?,
        Command::Tenant(command) => commands::tenant::run(&command)?,
        Command::Completions(arguments) => {
            commands::completions::run(&arguments, &mut Cli::command());
        }
        Command::Sandbox(command) => return commands::sandbox::run(&command),
        Command::Deploy(arguments) => commands::app::deploy(&arguments)?,
        Command::Logs(arguments) => commands::app::logs(&arguments)?,
        Command::Cancel(arguments) => commands::app::cancel(&arguments)?,
        Command::Rollback(arguments) => commands::app::rollback(&arguments)?,
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_an_example_and_every_option_a_text() {
        fn check(command: &clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            assert!(command.get_about().is_some(), "{path} says nothing of itself");
            for argument in command.get_arguments().filter(|one| one.get_id() != "help") {
                let is_told = argument.get_help().is_some() || argument.is_hide_set();
                assert!(is_told, "{path}: {} is not explained", argument.get_id());
            }
            let mut is_leaf = true;
            for own in command.get_subcommands().filter(|one| one.get_name() != "help") {
                is_leaf = false;
                check(own, &path);
            }
            if is_leaf {
                let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains(&format!(" {}", command.get_name())), "{path}: no example");
            }
        }
        Cli::command().debug_assert();
        check(&Cli::command(), "");
    }
}
