//! `miosa completions`: what makes a shell complete the commands.

use clap::{Args, Command};
use clap_complete::Shell;

use crate::logging::result;

/// Arguments of the command.
#[derive(Clone, Debug, Args)]
pub(crate) struct Arguments {
    /// The shell.
    shell: Shell,
}

pub(crate) fn run(arguments: &Arguments, command: &mut Command) {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, command, name, &mut script);
    result(String::from_utf8_lossy(&script).trim_end());
}
