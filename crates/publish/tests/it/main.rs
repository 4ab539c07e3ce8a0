//! Snapshot and build, with real commands, against a guest that is a folder of this machine.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod build;
mod folder_guest;
