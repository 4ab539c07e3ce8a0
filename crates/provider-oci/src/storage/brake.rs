//! The brake on sandboxes: when the pool is short of room and cannot grow, each is held at what
//! it uses, so that what is left is for the instances of apps. When to is pure.

use std::{collections::BTreeMap, fs::File, io, path::PathBuf, sync::Mutex};

use super::{Error, Tried as _, grow::Host};
use crate::sys::btrfs;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Whether sandboxes are to be held. `was` keeps it from going to and fro.
pub(super) fn is_due(pool: Host, can_grow: bool, was: bool) -> bool {
    let short = (pool.total / 10).clamp(GIB / 4, GIB).min(pool.total / 4);
    let enough = if was { short / 2 * 3 } else { short };
    !can_grow && pool.free < enough
}

/// What each of so many sandboxes may still write: to end in order and to remove something. All
/// of them together get at most a quarter of what is left, unless they are very many.
fn slack(free: u64, sandboxes: usize) -> u64 {
    let sandboxes = u64::try_from(sandboxes).unwrap_or(u64::MAX).max(1);
    (free / 4 / sandboxes).clamp(MIB, 16 * MIB)
}

/// The volumes of sandboxes and whether they are held.
#[derive(Debug)]
pub(super) struct Brake {
    pool: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What each may write while it is on. Unit: bytes.
    slack: Option<u64>,
    /// Their limits while it is off. Unit: bytes.
    sandboxes: BTreeMap<String, u64>,
}

impl Brake {
    pub(super) fn new(pool: PathBuf) -> Self {
        Self { pool, state: Mutex::default() }
    }

    pub(super) fn is_on(&self) -> bool {
        self.state().slack.is_some()
    }

    /// Counts a volume among the sandboxes' and sets its limit.
    pub(super) fn add(&self, name: &str, bytes: u64) -> Result<(), Error> {
        let mut state = self.state();
        state.sandboxes.insert(name.to_owned(), bytes);
        self.apply(name, bytes, state.slack)
    }

    /// Sets a volume's limit; that of a held one when it is let go.
    pub(super) fn set_limit(&self, name: &str, bytes: u64) -> Result<(), Error> {
        let mut state = self.state();
        let slack = state.slack;
        match state.sandboxes.get_mut(name) {
            Some(limit) => {
                *limit = bytes;
                self.apply(name, bytes, slack)
            }
            None => self.apply(name, bytes, None),
        }
    }

    /// Forgets a volume.
    pub(super) fn remove(&self, name: &str) {
        self.state().sandboxes.remove(name);
    }

    /// Holds every sandbox at its use, or lets all go.
    pub(super) fn set(&self, is_on: bool, free: u64) -> Result<(), Error> {
        self.apply_to_all(is_on, free)?;
        if !is_on {
            return Ok(());
        }
        // The use is counted when the filesystem commits, so those that write were held below
        // theirs: at once, but too tightly.
        File::open(&self.pool)
            .and_then(|pool| Ok(rustix::fs::syncfs(pool)?))
            .tried("write out the pool")?;
        self.apply_to_all(is_on, free)
    }

    fn apply_to_all(&self, is_on: bool, free: u64) -> Result<(), Error> {
        let mut state = self.state();
        state.slack = is_on.then(|| slack(free, state.sandboxes.len()));
        let mut done = Ok(());
        for (name, bytes) in &state.sandboxes {
            // One that is gone meanwhile must not keep the others from it.
            if let Err(error) = self.apply(name, *bytes, state.slack) {
                done = Err(error);
            }
        }
        done
    }

    fn apply(&self, name: &str, bytes: u64, slack: Option<u64>) -> Result<(), Error> {
        let limit = || {
            let volume = File::open(self.pool.join(name))?;
            let bytes = match slack {
                Some(slack) => bytes.min(btrfs::referenced(&volume)?.saturating_add(slack)),
                None => bytes,
            };
            btrfs::limit(File::open(&self.pool)?, &volume, bytes)
        };
        match limit() {
            Err(error) if error.kind() == io::ErrorKind::NotFound && slack.is_some() => Ok(()),
            done => done.tried("limit a volume"),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_due_when_room_is_short_and_nothing_else_helps() {
        let due = |total, free, can_grow, was| {
            is_due(Host { total: total * MIB, free: free * MIB }, can_grow, was)
        };
        assert!(!due(4096, 500, false, false), "a tenth is left");
        assert!(due(4096, 400, false, false));
        assert!(!due(4096, 400, true, false), "it grows instead");
        assert!(due(4096, 500, false, true), "not let go at once");
        assert!(!due(4096, 620, false, true));
        assert!(!due(100 * 1024, 1100, false, false), "1 GiB is enough for a large one");
        assert!(due(100 * 1024, 1000, false, false));
        assert!(due(512, 120, false, false) && !due(512, 130, false, false), "a small one");
    }

    #[test]
    fn the_slack_is_little_and_shared() {
        assert_eq!(slack(0, 0), MIB);
        assert_eq!(slack(GIB, 3), 16 * MIB);
        assert_eq!(slack(400 * MIB, 20), 5 * MIB);
        assert_eq!(slack(10 * MIB, 500), MIB);
    }
}
