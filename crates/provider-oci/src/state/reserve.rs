//! Room on the disk of the data folder for what a start writes there while that disk is full.
//!
//! Promises: it is given in small pieces, each to be used at once, because others wait for room
//! too; it is taken again when there is plenty. So an app that dies while the disk is full is
//! replaced: its volume has room of its own, its records and its log have this.

use std::{fs::File, io, path::Path};

const KIB: u64 = 1 << 10;
/// All of it. Unit: bytes.
const SIZE: u64 = 16 * 1024 * KIB;
/// Given at a time. Unit: bytes.
const PIECE: u64 = 256 * KIB;
/// Free room from which it is taken again. Unit: bytes.
const PLENTY: u64 = 8 * SIZE;
const NAME: &str = ".reserve";

/// Takes what is missing, if there is plenty. Failing is no fault: it is tried again.
pub(super) fn keep(folder: &Path) {
    let path = folder.join(NAME);
    if path.metadata().is_ok_and(|file| file.len() >= SIZE) {
        return;
    }
    let has_plenty = rustix::fs::statvfs(folder)
        .is_ok_and(|disk| disk.f_bavail.saturating_mul(disk.f_frsize) >= PLENTY);
    if has_plenty && let Err(error) = take(&path) {
        tracing::debug!(%error, "no room is reserved for records yet");
    }
}

fn take(path: &Path) -> io::Result<()> {
    let file = File::options().create(true).append(true).open(path)?;
    // Also of what a file that was cut off holds already.
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, SIZE)?;
    Ok(())
}

/// Gives one piece. Returns whether there was one.
pub(super) fn give(folder: &Path) -> bool {
    let cut = || {
        let file = File::options().write(true).open(folder.join(NAME))?;
        let length = file.metadata()?.len();
        file.set_len(length.saturating_sub(PIECE))?;
        // Without this some filesystems free it later.
        file.sync_all()?;
        io::Result::Ok(length > 0)
    };
    cut().unwrap_or(false)
}
