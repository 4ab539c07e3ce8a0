//! Growing the loop file by need: how much is pure, a thread does it.
//!
//! The file starts as a share of the free disk and grows, online, before it is full; it never takes the last of the
//! host's disk. It does not shrink. When it cannot grow either, the [`Brake`] is put on.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        mpsc::{self, RecvTimeoutError},
    },
    time::Duration,
};

use super::{
    Error, Files, Tried as _,
    brake::{self, Brake},
};
use crate::sys::{btrfs, loopdev};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// Bounds of the size of a new file, which is an eighth of what may be taken: a cushion for
/// writers that are faster than growing. It waits for a commit of the filesystem, and a busy one
/// takes seconds.
const FIRST: std::ops::RangeInclusive<u64> = 2 * GIB..=32 * GIB;
/// Less than this is of no use.
const LEAST: u64 = 256 * MIB;
/// How often the free room is looked at (one statvfs). A disk that writes 500 MB/s uses up a
/// tenth of the room that is kept free between two looks.
const PERIOD: Duration = Duration::from_millis(200);

/// Room on the filesystem below. Unit: bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Host {
    pub(super) total: u64,
    pub(super) free: u64,
}

impl Host {
    pub(super) fn of(stat: &rustix::fs::StatVfs) -> Self {
        let block = stat.f_frsize;
        Self { total: stat.f_blocks * block, free: stat.f_bavail * block }
    }

    /// What may be taken: all but a reserve for the database, artifacts and the host itself.
    fn available(self) -> u64 {
        self.free.saturating_sub((self.total / 20).clamp(GIB, 20 * GIB))
    }
}

/// Size of a new file; `None` if the disk is too full. Unit: bytes.
pub(super) fn first_size(host: Host) -> Option<u64> {
    let share = (host.available() / 8).clamp(*FIRST.start(), *FIRST.end());
    let size = share.min(host.available()) / MIB * MIB;
    (size >= LEAST).then_some(size)
}

/// By how much to grow now, if at all. Unit: bytes.
fn growth(pool: Host, host: Host) -> Option<u64> {
    let wanted_free = (pool.total / 2).clamp(GIB, 8 * GIB);
    if pool.free >= wanted_free {
        return None;
    }
    let step = (pool.total / 2).clamp(GIB, 16 * GIB).min(host.available()) / MIB * MIB;
    (step >= LEAST).then_some(step)
}

/// Watches the pool and grows it until it is stopped or dropped.
#[derive(Debug)]
pub(super) struct Grower {
    stop: Mutex<Option<mpsc::Sender<()>>>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Grower {
    /// Starts on a mounted pool. A growth that a crash cut short is finished first.
    pub(super) fn start(files: &Files, brake: Arc<Brake>) -> Result<Self, Error> {
        let task = Task { pool: files.pool.clone(), image: files.image.clone(), brake };
        task.stretch()?;
        let (stop, stopped) = mpsc::channel::<()>();
        let thread = std::thread::Builder::new()
            .name("pool-growth".to_owned())
            .spawn(move || {
                let mut is_told = false;
                while stopped.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
                    task.look(&mut is_told);
                }
            })
            .tried("start the thread that grows the pool")?;
        Ok(Self { stop: Mutex::new(Some(stop)), thread: Mutex::new(Some(thread)) })
    }

    /// Ends the thread and waits for it: at most one growth.
    pub(super) fn stop(&self) {
        drop(self.stop.lock().map(|mut stop| stop.take()));
        let thread = self.thread.lock().ok().and_then(|mut thread| thread.take());
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::warn!("the thread that grows the pool panicked");
        }
    }
}

impl Drop for Grower {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Task {
    pool: PathBuf,
    image: PathBuf,
    brake: Arc<Brake>,
}

impl Task {
    /// Grows if it is time, else holds the sandboxes if that is due; says once what it cannot.
    fn look(&self, is_told: &mut bool) {
        let grown = self.grow();
        let held = self.hold(grown.is_ok());
        match grown.and(held) {
            Ok(()) => *is_told = false,
            Err(error) if !*is_told => {
                *is_told = true;
                tracing::warn!(%error, "the pool of volumes cannot grow");
            }
            Err(_) => {}
        }
    }

    fn hold(&self, may_grow: bool) -> Result<(), Error> {
        let (mut pool, host) = self.room()?;
        let can_grow = may_grow && host.available() >= LEAST;
        let was = self.brake.is_on();
        if !can_grow {
            pool.free = pool.free.saturating_sub(promised(&self.device()?));
        }
        let is_due = brake::is_due(pool, can_grow, was);
        if is_due != was {
            let free_mib = pool.free / MIB;
            if is_due {
                tracing::warn!(
                    free_mib,
                    "the pool of volumes is short of room: sandboxes are held"
                );
            } else {
                tracing::info!(free_mib, "the pool of volumes has room again");
            }
            self.brake.set(is_due, pool.free)?;
        }
        Ok(())
    }

    /// Of the pool and of the disk below.
    fn room(&self) -> Result<(Host, Host), Error> {
        let stat = |path: &Path| rustix::fs::statvfs(path).tried("look at the pool");
        let host = stat(self.image.parent().unwrap_or(&self.image))?;
        Ok((Host::of(&stat(&self.pool)?), Host::of(&host)))
    }

    fn grow(&self) -> Result<(), Error> {
        let (pool, host) = self.room()?;
        let Some(step) = growth(pool, host) else {
            return Ok(());
        };
        let file = File::options().write(true).open(&self.image).tried("open pool.img")?;
        let size = file.metadata().tried("look at pool.img")?.len();
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), size, step)
            .tried("allocate more of pool.img")?;
        self.stretch()?;
        tracing::info!(from_mib = size / MIB, by_mib = step / MIB, "the pool of volumes grew");
        Ok(())
    }

    /// Lets device and filesystem have the size of the file.
    fn stretch(&self) -> Result<(), Error> {
        loopdev::refresh_size(&self.device()?).tried("grow the loop device")?;
        let root = File::open(&self.pool).tried("open the pool")?;
        btrfs::resize_to_device(&root).tried("grow the pool")
    }

    /// The device that is mounted: `/dev/loopN` by the mount table.
    fn device(&self) -> Result<PathBuf, Error> {
        let table = fs_err::read_to_string("/proc/self/mountinfo").tried("list mounts")?;
        source_of(&table, &self.pool)
            .ok_or_else(|| std::io::Error::other("the pool is not mounted"))
            .tried("find the loop device")
    }
}

/// What writers were promised and is not on the device yet: free by `statfs`, and as good as gone.
fn promised(device: &Path) -> u64 {
    let Some(name) = device.file_name() else { return 0 };
    let filesystems = std::fs::read_dir("/sys/fs/btrfs").into_iter().flatten().flatten();
    let ours =
        filesystems.map(|one| one.path()).find(|one| one.join("devices").join(name).exists());
    let text = ours
        .and_then(|one| std::fs::read_to_string(one.join("allocation/data/bytes_may_use")).ok());
    text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// The device mounted at `point`: the second field after the dash of proc(5) mountinfo.
pub(super) fn source_of(table: &str, point: &Path) -> Option<PathBuf> {
    let line = table.lines().rfind(|line| {
        crate::rootfs::mount_points(line).next().is_some_and(|found| found == point)
    })?;
    line.split(" - ").nth(1)?.split(' ').nth(1).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn host(total: u64, free: u64) -> Host {
        Host { total: total * GIB, free: free * GIB }
    }

    #[test]
    fn it_grows_before_it_is_full_and_leaves_the_host_its_reserve() {
        let cases = [
            (host(2, 2), host(200, 100), None, "room enough"),
            (Host { total: 2 * GIB, free: GIB - 1 }, host(200, 100), Some(1), "small pool"),
            (host(20, 1), host(200, 100), Some(10), "by half"),
            (host(20, 7), host(200, 100), Some(10), "long before it is full"),
            (host(100, 1), host(200, 100), Some(16), "at most 16 GiB at a time"),
            (host(20, 1), host(200, 12), Some(2), "what is left above the reserve"),
            (host(20, 0), host(200, 10), None, "never the reserve"),
        ];
        for (pool, host, expected, why) in cases {
            assert_eq!(growth(pool, host), expected.map(|gib| gib * GIB), "{why}");
        }
    }

    #[test]
    fn the_first_size_is_a_share_and_a_full_disk_is_refused() {
        assert_eq!(first_size(host(2000, 1000)), Some(32 * GIB));
        assert_eq!(first_size(host(200, 90)), Some(10 * GIB));
        assert_eq!(first_size(host(20, 9)), Some(2 * GIB));
        assert_eq!(first_size(host(20, 2)), Some(GIB));
        assert_eq!(first_size(host(20, 1)), None);
    }

    #[test]
    fn the_device_is_found_by_the_mount_point() {
        let table = "29 1 254:0 / / rw - ext4 /dev/root rw\n\
                     40 29 0:40 / /data/pool rw,nosuid shared:3 - btrfs /dev/loop3 rw,subvol=/\n";
        assert_eq!(source_of(table, Path::new("/data/pool")), Some("/dev/loop3".into()));
        assert_eq!(source_of(table, Path::new("/data")), None);
    }
}
