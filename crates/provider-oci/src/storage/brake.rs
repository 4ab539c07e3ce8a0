//! The brake on sandboxes: when the pool is short of room and cannot grow, each is held at what
//! it uses, so that what is left is for the instances of apps. When to is pure.

use std::{collections::BTreeMap, fs::File, io, path::PathBuf, sync::Mutex};

use super::{
    Error, Tried as _,
    grow::{Host, wanted_free},
    reserve,
};
use crate::sys::btrfs;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// How growing the pool went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Growth {
    /// It grows, or need not.
    Works,
    /// It was due and did not succeed. It is tried again.
    Fails,
    /// The disk below has no room for it.
    NoRoom,
}

/// Whether sandboxes are to be held. `was` keeps it from going to and fro.
pub(super) fn is_due(pool: Host, growth: Growth, was: bool) -> bool {
    let short = (pool.total / 10).clamp(GIB / 4, GIB).min(pool.total / 4);
    let short = match growth {
        Growth::Works => return false,
        // Half of the room that is kept is left for more attempts.
        Growth::Fails => short.max(wanted_free(pool) / 2),
        Growth::NoRoom => short,
    };
    let enough = if was { short / 2 * 3 } else { short };
    pool.free < enough
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

    /// Holds every sandbox at its use and gives the reserve, or takes that back and lets all go.
    pub(super) fn set(&self, is_on: bool, free: u64) -> Result<(), Error> {
        if !is_on {
            // First, so that it is not theirs. Without it they are let go all the same.
            let kept = reserve::keep(&self.pool);
            return self.apply_to_all(is_on, free).and(kept);
        }
        self.apply_to_all(is_on, free)?;
        // The use is counted when the filesystem commits, so those that write were held below
        // theirs: at once, but too tightly.
        File::open(&self.pool)
            .and_then(|pool| Ok(rustix::fs::syncfs(pool)?))
            .tried("write out the pool")?;
        self.apply_to_all(is_on, free)?;
        reserve::give(&self.pool)
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
        use Growth::{Fails, NoRoom, Works};
        let due = |total, free, growth, was| {
            is_due(Host { total: total * MIB, free: free * MIB }, growth, was)
        };
        assert!(!due(4096, 500, NoRoom, false), "a tenth is left");
        assert!(due(4096, 400, NoRoom, false));
        assert!(!due(4096, 400, Works, false), "it grows instead");
        assert!(due(4096, 500, NoRoom, true), "not let go at once");
        assert!(!due(4096, 620, NoRoom, true));
        assert!(!due(100 * 1024, 1100, NoRoom, false), "1 GiB is enough for a large one");
        assert!(due(100 * 1024, 1000, NoRoom, false));
        assert!(due(512, 120, NoRoom, false) && !due(512, 130, NoRoom, false), "a small one");
        assert!(due(4096, 1000, Fails, false), "a growth that fails leaves no time");
        assert!(!due(4096, 1100, Fails, false), "there is room for another attempt");
        assert!(!due(4096, 0, Works, true), "it grew after all");
    }

    #[test]
    fn the_slack_is_little_and_shared() {
        assert_eq!(slack(0, 0), MIB);
        assert_eq!(slack(GIB, 3), 16 * MIB);
        assert_eq!(slack(400 * MIB, 20), 5 * MIB);
        assert_eq!(slack(10 * MIB, 500), MIB);
    }
}
