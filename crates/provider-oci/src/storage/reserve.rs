//! Room in the pool that only apps get.
//!
//! A file that takes it: it is removed when the sandboxes are held, and made anew before they are
//! let go. A threshold alone would not keep room, because a writer into the page cache takes it
//! between two looks. Making the file also has a chunk of metadata allocated, without which no
//! volume can be made however much room for data there is.

use std::{fs::File, io, path::Path};

use super::{Error, Tried as _, grow::Host};

const MIB: u64 = 1 << 20;
const NAME: &str = ".reserve";
const DRAFT: &str = ".reserve.new";

/// Its size. Unit: bytes.
pub(super) fn size(pool: Host) -> u64 {
    (pool.total / 16).min(512 * MIB) / MIB * MIB
}

/// What of it is kept now. Unit: bytes.
pub(super) fn kept(pool: &Path) -> u64 {
    std::fs::metadata(pool.join(NAME)).map_or(0, |file| file.len())
}

/// What of it is given away. Unit: bytes.
pub(super) fn missing(pool: &Path, room: Host) -> u64 {
    size(room).saturating_sub(kept(pool))
}

/// Takes the room, if it is not taken.
pub(super) fn keep(pool: &Path) -> Result<(), Error> {
    let stat = rustix::fs::statvfs(pool).tried("look at the pool")?;
    let size = size(Host::of(&stat));
    if kept(pool) >= size {
        return Ok(());
    }
    let draft = pool.join(DRAFT);
    let made = File::create(&draft).and_then(|file| {
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, size)?;
        std::fs::rename(&draft, pool.join(NAME))
    });
    if made.is_err() {
        super::absent_ok(std::fs::remove_file(&draft)).ok();
    }
    made.tried("reserve room for apps")
}

/// Gives the room to whoever is not held.
pub(super) fn give(pool: &Path) -> Result<(), Error> {
    for name in [NAME, DRAFT] {
        super::absent_ok(std::fs::remove_file(pool.join(name))).tried("give the reserve")?;
    }
    // It is free only once the filesystem has committed.
    File::open(pool)
        .and_then(|pool| rustix::fs::syncfs(pool).map_err(io::Error::from))
        .tried("write out the pool")
}
