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

use clap::{Parser, Subcommand};

use settings::{Options, Settings};

/// A self-hosted, white-label application platform.
#[derive(Debug, Parser)]
#[command(name = "miosa", version = concat!(env!("CARGO_PKG_VERSION"), " (", env!("MIOSA_COMMIT"), ")"))]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the platform on this machine and keep it running.
    Up(Options),
    /// Stop the platform of a data folder and remove every workload and host object of it.
    ///
    /// Apps, artifacts and the database stay; `up` brings everything back.
    Down(commands::down::Arguments),
    /// Show what runs, what fails, and how full the warm pool is.
    Status(commands::status::Arguments),
    /// Show what this machine lacks and how to get it.
    Doctor(commands::doctor::Arguments),
    /// Build and list templates.
    #[command(subcommand)]
    Template(commands::template::Command),
    /// Make and list tenants.
    #[command(subcommand)]
    Tenant(commands::tenant::Command),
    /// Run the edge alone (`up` does this for you).
    Edge(Options),
    /// Run control alone (`up` does this for you).
    Control(Options),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    logging::start();
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            logging::fail(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Up(options) => {
            roles::require_root("up")?;
            supervisor::run(&Settings::load(&options)?)
        }
        Command::Edge(options) => roles::edge::run(&Settings::load(&options)?),
        Command::Control(options) => {
            roles::require_root("control")?;
            roles::control::run(&Settings::load(&options)?)
        }
        Command::Down(arguments) => commands::down::run(&arguments),
        Command::Status(arguments) => commands::status::run(&arguments),
        Command::Doctor(arguments) => commands::doctor::run(&arguments),
        Command::Template(command) => commands::template::run(&command),
        Command::Tenant(command) => commands::tenant::run(&command),
    }
}
