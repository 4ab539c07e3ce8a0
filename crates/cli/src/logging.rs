//! Logs go to standard error: readable lines, or JSON with `MIOSA_LOG_FORMAT=json`. What is
//! logged is set by `MIOSA_LOG` (as `info,miosa_edge=debug`).
//!
//! Promises: a line that cannot be written is lost, and nothing else happens: the reader of a pipe
//! may go away, and the disk of a log may fill.

use std::io::{IsTerminal as _, Write as _};

use tracing_subscriber::EnvFilter;

/// Starts logging; `default` is logged if `MIOSA_LOG` says nothing. Call once.
pub(crate) fn start(default: &str) {
    let filter = EnvFilter::try_from_env("MIOSA_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // It would be told of on standard error, which panics if that cannot be written.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal());
    if std::env::var("MIOSA_LOG_FORMAT").is_ok_and(|format| format == "json") {
        builder.json().init();
    } else {
        builder.with_target(false).init();
    }
}

/// Shows why a command failed: one line, from what was tried to what went wrong.
pub(crate) fn fail(error: &anyhow::Error) {
    progress(&format!("error: {error:#}"));
}

/// Shows a line of progress.
pub(crate) fn progress(line: &str) {
    writeln!(std::io::stderr(), "{line}").ok();
}

/// Shows a result. A reader that has seen enough (`… | head`) ends the program quietly.
#[expect(clippy::exit, reason = "as SIGPIPE would")]
pub(crate) fn result(text: &str) {
    if writeln!(std::io::stdout(), "{text}").is_err() {
        std::process::exit(0);
    }
}
