//! User namespaces for workloads, made ahead, each with uids of its own.
//!
//! Promises: two workloads of this host never share a uid, also across installations; a range in
//! use is never given out again; at most [`READY`] namespaces wait; making one never blocks a
//! caller unless the pool ran dry.
//!
//! Ids `0..65536` inside are `base..base + 65536` outside, `base = 100000 + 65536 · slot`. Each
//! installation owns [`SLOTS`] slots, its region. Regions are told apart by one file per region in
//! [`REGISTRY`], which holds the data folder's path; the claim is also kept in the data folder, so
//! that workloads that outlive control are found in the same region.

use std::{
    collections::{BTreeSet, VecDeque},
    io::{self, Write as _},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::sys;

/// Ids per namespace.
pub const SIZE: u32 = 65_536;
/// Slots per installation: more workloads than one host can run.
pub const SLOTS: u32 = 1024;
/// First id of slot 0; lower ones belong to the host's users and to subuid(5) ranges.
const FIRST: u32 = 100_000;
/// Regions that fit below 2^32 - 1.
const REGIONS: u32 = (u32::MAX - FIRST) / SIZE / SLOTS;
/// Namespaces that wait for use.
pub const READY: usize = 16;
/// Host-wide register of regions. It may vanish at a restart of the machine: then no workload
/// runs either.
const REGISTRY: &str = "/run/miosa/uids";

/// A user namespace that lives as long as its descriptor or a process in it.
#[derive(Debug)]
pub struct Userns {
    /// The host's id of the namespace's root.
    pub base: u32,
    /// Holds it. For a program that wants a path: `/proc/<our pid>/fd/<this>`.
    pub fd: OwnedFd,
}

/// Why no namespace could be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// All ranges are in use: remove a workload, or use another host.
    #[error("all {SLOTS} id ranges of this installation are in use")]
    Exhausted,
    /// The kernel or the disk refused.
    #[error("cannot make a user namespace: {0}")]
    Io(#[from] io::Error),
}

/// Makes namespaces ahead and keeps account of the ranges.
#[derive(Debug)]
pub struct UsernsPool {
    region: u32,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Slots of waiting namespaces and of workloads.
    used: BTreeSet<u32>,
    ready: VecDeque<Userns>,
    is_filling: bool,
    /// The last one given out: a freed range rests as long as possible.
    cursor: u32,
}

impl UsernsPool {
    /// Opens the installation's pool. `in_use` are the bases of workloads that still run from
    /// before. Waiting namespaces are made in the background.
    pub fn open(
        data_dir: &Path,
        in_use: impl IntoIterator<Item = u32>,
    ) -> Result<Arc<Self>, Error> {
        let in_use: Vec<u32> = in_use.into_iter().collect();
        let region = claim_region(Path::new(REGISTRY), data_dir, !in_use.is_empty())?;
        let pool = Arc::new(Self { region, state: Mutex::default() });
        for base in in_use {
            pool.adopt(base);
        }
        pool.refill();
        Ok(pool)
    }

    /// Marks the range of a workload from before as in use.
    pub fn adopt(&self, base: u32) {
        if let Some(slot) = self.slot(base) {
            self.state().used.insert(slot);
        }
    }

    /// Takes a waiting namespace, or makes one (1 ms). The range stays taken until
    /// [`UsernsPool::release`].
    pub fn take(self: &Arc<Self>) -> Result<Userns, Error> {
        let waiting = self.state().ready.pop_front();
        let userns = match waiting {
            Some(userns) => userns,
            None => self.make()?,
        };
        self.refill();
        Ok(userns)
    }

    /// Gives a range back. Call it when nothing runs in it any more.
    pub fn release(&self, base: u32) {
        if let Some(slot) = self.slot(base) {
            self.state().used.remove(&slot);
        }
    }

    /// Gives the region back; for the removal of the whole installation.
    pub fn forget(data_dir: &Path) -> io::Result<()> {
        forget_region(Path::new(REGISTRY), data_dir)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn base(&self, slot: u32) -> u32 {
        FIRST + SIZE * (self.region * SLOTS + slot)
    }

    fn slot(&self, base: u32) -> Option<u32> {
        let slot = base.checked_sub(self.base(0))? / SIZE;
        (slot < SLOTS && self.base(slot) == base).then_some(slot)
    }

    fn make(&self) -> Result<Userns, Error> {
        let slot = {
            let mut state = self.state();
            let free = next_free(&state.used, state.cursor).ok_or(Error::Exhausted)?;
            state.used.insert(free);
            state.cursor = free + 1;
            free
        };
        let base = self.base(slot);
        match sys::userns::create(base, SIZE) {
            Ok(fd) => Ok(Userns { base, fd }),
            Err(error) => {
                self.state().used.remove(&slot);
                Err(error.into())
            }
        }
    }

    /// Fills up in the background, by one thread at a time: a burst of starts must not compete
    /// with several of them for the cores.
    fn refill(self: &Arc<Self>) {
        {
            let mut state = self.state();
            if state.is_filling || state.ready.len() >= READY {
                return;
            }
            state.is_filling = true;
        }
        let pool = Arc::clone(self);
        let spawned = std::thread::Builder::new().name("userns".into()).spawn(move || {
            if let Err(error) = pool.fill() {
                tracing::warn!(%error, "the pool of user namespaces could not be filled");
            }
        });
        if let Err(error) = spawned {
            self.state().is_filling = false;
            tracing::warn!(%error, "no thread to fill the pool of user namespaces");
        }
    }

    fn fill(&self) -> Result<(), Error> {
        loop {
            {
                let mut state = self.state();
                if state.ready.len() >= READY {
                    state.is_filling = false;
                    return Ok(());
                }
            }
            match self.make() {
                Ok(userns) => self.state().ready.push_back(userns),
                Err(error) => {
                    self.state().is_filling = false;
                    return Err(error);
                }
            }
        }
    }
}

/// The first free slot at or after `cursor`, going round.
fn next_free(used: &BTreeSet<u32>, cursor: u32) -> Option<u32> {
    (0..SLOTS).map(|step| (cursor + step) % SLOTS).find(|slot| !used.contains(slot))
}

fn record(data_dir: &Path) -> PathBuf {
    data_dir.join("oci/uid-region")
}

/// The region of `data_dir`: the recorded one if it is ours or free, else a free one.
///
/// With workloads running from before (`is_bound`) the recorded one is kept even if another
/// installation has claimed it meanwhile, which needs the register to be lost while workloads
/// run.
fn claim_region(registry: &Path, data_dir: &Path, is_bound: bool) -> io::Result<u32> {
    fs_err::create_dir_all(registry)?;
    fs_err::create_dir_all(data_dir.join("oci"))?;
    let _lock = lock(registry)?;
    let recorded = recorded(data_dir)?;
    for region in recorded.into_iter().chain(0..REGIONS) {
        let claim = registry.join(region.to_string());
        let is_ours = is_free(&claim, region, data_dir)? || (is_bound && recorded == Some(region));
        if !is_ours {
            continue;
        }
        fs_err::write(&claim, data_dir.as_os_str().as_encoded_bytes())?;
        if recorded != Some(region) {
            write_durably(&record(data_dir), region.to_string().as_bytes())?;
        }
        return Ok(region);
    }
    Err(io::Error::other(format!("all {REGIONS} id regions of this host are taken")))
}

/// Held while the register is read and changed; goes with the descriptor.
fn lock(registry: &Path) -> io::Result<std::fs::File> {
    let file = std::fs::File::create(registry.join("lock"))?;
    file.lock()?;
    Ok(file)
}

fn recorded(data_dir: &Path) -> io::Result<Option<u32>> {
    match fs_err::read_to_string(record(data_dir)) {
        Ok(text) => Ok(text.trim().parse::<u32>().ok().filter(|region| *region < REGIONS)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// True if nobody but `data_dir` claims the region. A claim whose data folder no longer records
/// the region counts for nothing: the folder was removed, or a crash came between.
fn is_free(claim: &Path, region: u32, data_dir: &Path) -> io::Result<bool> {
    let holder = match fs_err::read_to_string(claim) {
        Ok(text) => PathBuf::from(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    };
    Ok(holder == data_dir || recorded(&holder)? != Some(region))
}

fn forget_region(registry: &Path, data_dir: &Path) -> io::Result<()> {
    let Some(region) = recorded(data_dir)? else { return Ok(()) };
    let _lock = lock(registry)?;
    let claim = registry.join(region.to_string());
    if fs_err::read_to_string(&claim).is_ok_and(|holder| Path::new(&holder) == data_dir) {
        fs_err::remove_file(&claim)?;
    }
    fs_err::remove_file(record(data_dir))
}

/// Writes by rename, so that a crash leaves the old or the new content.
fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = fs_err::File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs_err::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_fit_below_the_last_id_and_do_not_overlap() {
        let last = FIRST + SIZE * ((REGIONS - 1) * SLOTS + SLOTS - 1);
        assert!(last.checked_add(SIZE).is_some());
        let pool = UsernsPool { region: 3, state: Mutex::default() };
        let next = UsernsPool { region: 4, state: Mutex::default() };
        assert_eq!(pool.base(SLOTS - 1) + SIZE, next.base(0));
        for slot in [0, 1, SLOTS - 1] {
            assert_eq!(pool.slot(pool.base(slot)), Some(slot));
            assert_eq!(next.slot(pool.base(slot)), None, "another region's range");
        }
        assert_eq!(pool.slot(pool.base(0) + 1), None, "no base");
    }

    #[test]
    fn a_freed_slot_rests_until_the_others_were_used() {
        let mut used = BTreeSet::from([0, 1]);
        assert_eq!(next_free(&used, 2), Some(2));
        assert_eq!(next_free(&used, SLOTS), Some(2));
        used.extend(0..SLOTS);
        assert_eq!(next_free(&used, 7), None);
    }

    #[test]
    fn installations_get_different_regions_and_keep_them() {
        let folder = tempfile::tempdir().unwrap();
        let registry = folder.path().join("registry");
        let data = |name: &str| {
            let path = folder.path().join(name);
            fs_err::create_dir_all(&path).unwrap();
            path
        };
        let (a, b) = (data("a"), data("b"));
        let claim = |data: &Path| claim_region(&registry, data, false).unwrap();
        let (first, second) = (claim(&a), claim(&b));
        assert_ne!(first, second);
        assert_eq!(claim(&a), first, "again the same");
        // The register is lost at a restart of the machine and the other comes first.
        fs_err::remove_dir_all(&registry).unwrap();
        assert_eq!(claim(&b), second);
        assert_eq!(claim(&a), first);
        // A folder that is gone gives its region back.
        fs_err::remove_dir_all(&a).unwrap();
        assert_eq!(claim(&data("c")), first);
        forget_region(&registry, &b).unwrap();
        assert_eq!(claim(&data("d")), second);
    }
}
