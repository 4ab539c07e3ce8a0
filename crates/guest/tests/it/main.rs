//! The real guest as an ordinary process, driven by the client the platform uses.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "helpers of tests fail and say what they skip, as tests do"
)]

mod archives;
mod command;
mod files;
mod processes;
mod support;
