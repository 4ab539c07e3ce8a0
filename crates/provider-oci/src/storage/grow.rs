//! Growing the loop file by need: how much is pure, a thread does it.
//!
//! The file starts as a share of the free disk and grows, online, before it is full; it never takes the last of the
//! host's disk. It does not shrink. When it cannot grow, the [`Brake`] is put on.
//!
//! Promises: no writer that stays below its limit is refused while the disk below has room. So
//! what was promised to writers counts as used long before it is on the device, the room is
//! looked at more often while it is used up, and what failed is tried again from where it failed.

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
    reserve,
};
use crate::sys::{btrfs, loopdev};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// Bounds of the size of a new file, which is half of what may be taken: a cushion for writers
/// that are faster than growing. That waits for a commit of the filesystem, and a busy one takes
/// seconds.
const FIRST: std::ops::RangeInclusive<u64> = 2 * GIB..=64 * GIB;
/// Less than this is of no use.
const LEAST: u64 = 256 * MIB;
/// How often the room is looked at (one statvfs) while nobody writes much.
const CALM: Duration = Duration::from_millis(200);
/// How often while it is used up: a writer into the page cache takes gigabytes in a second.
const BUSY: Duration = Duration::from_millis(20);

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
    let share = (host.available() / 2).clamp(*FIRST.start(), *FIRST.end());
    let size = share.min(host.available()) / MIB * MIB;
    (size >= LEAST).then_some(size)
}

/// Room that a pool keeps before it is used. Unit: bytes.
pub(super) fn wanted_free(pool: Host) -> u64 {
    (pool.total / 2).clamp(GIB, 8 * GIB)
}

/// What is next for the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// It has room.
    Rest,
    /// Its file is longer than it: an earlier growth was cut short.
    Stretch,
    /// Lengthen the file by so much, then stretch. Unit: bytes.
    Allocate(u64),
    /// The disk below has no room either.
    Stay,
}

/// `file`: length of the pool's file. Unit: bytes.
fn next(pool: Host, host: Host, file: u64) -> Next {
    // A filesystem is a little smaller than its device.
    if file > pool.total + MIB {
        return Next::Stretch;
    }
    if pool.free >= wanted_free(pool) {
        return Next::Rest;
    }
    let step = (pool.total / 2).clamp(GIB, 16 * GIB).min(host.available()) / MIB * MIB;
    if step >= LEAST { Next::Allocate(step) } else { Next::Stay }
}

/// When to look again, `used` bytes later than the last time.
fn pause(pool: Host, used: u64) -> Duration {
    let is_used_up = used > wanted_free(pool) / 64 || pool.free < wanted_free(pool) / 2;
    if is_used_up { BUSY } else { CALM }
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
        // One that fails is tried again by the thread.
        if let Err(error) = task.stretch() {
            tracing::warn!(%error, "the pool of volumes could not be stretched yet");
        }
        let (stop, stopped) = mpsc::channel::<()>();
        let thread = std::thread::Builder::new()
            .name("pool-growth".to_owned())
            .spawn(move || {
                let (mut rest, mut last) = (BUSY, Last::default());
                while stopped.recv_timeout(rest) == Err(RecvTimeoutError::Timeout) {
                    rest = task.look(&mut last);
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

/// What the last look saw.
#[derive(Default)]
struct Last {
    free: u64,
    is_told: bool,
}

struct Task {
    pool: PathBuf,
    image: PathBuf,
    brake: Arc<Brake>,
}

impl Task {
    /// Grows if it is time, holds the sandboxes if that is due; says once what it cannot. When to
    /// look again.
    fn look(&self, last: &mut Last) -> Duration {
        let done = self.act();
        match &done {
            Ok(_) => last.is_told = false,
            Err(error) if !last.is_told => {
                last.is_told = true;
                tracing::warn!(%error, "the pool of volumes cannot grow");
            }
            Err(_) => {}
        }
        let Ok(pool) = done else { return CALM };
        let used = last.free.saturating_sub(pool.free);
        last.free = pool.free;
        pause(pool, used)
    }

    /// What the pool is like then.
    fn act(&self) -> Result<Host, Error> {
        let mut grown = self.grow();
        self.hold(&grown)?;
        if grown.is_err() && self.brake.is_on() {
            // Writers were held, and what they had been promised is written or given back.
            grown = self.grow();
            self.hold(&grown)?;
        }
        grown?;
        Ok(self.room()?.0)
    }

    fn hold(&self, grown: &Result<Next, Error>) -> Result<(), Error> {
        let growth = match grown {
            Ok(Next::Stay) => brake::Growth::NoRoom,
            Ok(_) => brake::Growth::Works,
            Err(_) => brake::Growth::Fails,
        };
        let (mut pool, _) = self.room()?;
        let was = self.brake.is_on();
        // The reserve counts as used also while apps may use it.
        pool.free = pool.free.saturating_sub(reserve::missing(&self.pool, pool));
        let is_due = brake::is_due(pool, growth, was);
        if is_due != was {
            let free_mib = pool.free / MIB;
            if is_due {
                tracing::warn!(
                    free_mib,
                    ?growth,
                    "the pool of volumes is short of room: sandboxes are held"
                );
            } else {
                tracing::info!(free_mib, "the pool of volumes has room again");
            }
            self.brake.set(is_due, pool.free)?;
        }
        Ok(())
    }

    /// Of the pool, less what its writers were promised, and of the disk below.
    fn room(&self) -> Result<(Host, Host), Error> {
        let stat = |path: &Path| rustix::fs::statvfs(path).tried("look at the pool");
        let host = stat(self.image.parent().unwrap_or(&self.image))?;
        Ok((room(&self.pool, &device_of(&self.pool)?)?, Host::of(&host)))
    }

    /// What was done.
    fn grow(&self) -> Result<Next, Error> {
        let (pool, host) = self.room()?;
        let file = File::options().write(true).open(&self.image).tried("open pool.img")?;
        let size = file.metadata().tried("look at pool.img")?.len();
        let next = next(pool, host, size);
        match next {
            Next::Rest | Next::Stay => return Ok(next),
            Next::Stretch => {}
            Next::Allocate(step) => {
                rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), size, step)
                    .tried("allocate more of pool.img")?;
            }
        }
        self.stretch()?;
        tracing::info!(from_mib = pool.total / MIB, ?next, "the pool of volumes grew");
        Ok(next)
    }

    /// Lets device and filesystem have the size of the file.
    fn stretch(&self) -> Result<(), Error> {
        loopdev::refresh_size(&device_of(&self.pool)?).tried("grow the loop device")?;
        let root = File::open(&self.pool).tried("open the pool")?;
        btrfs::resize_to_device(&root).tried("grow the pool")
    }
}

/// The device that is mounted at `pool`.
pub(super) fn device_of(pool: &Path) -> Result<PathBuf, Error> {
    let table = fs_err::read_to_string("/proc/self/mountinfo").tried("list mounts")?;
    source_of(&table, pool)
        .ok_or_else(|| std::io::Error::other("it is not mounted"))
        .tried("find the loop device")
}

/// Room of the pool, less what writers were promised.
pub(super) fn room(pool: &Path, device: &Path) -> Result<Host, Error> {
    let stat = rustix::fs::statvfs(pool).tried("look at the pool")?;
    let Host { total, free } = Host::of(&stat);
    Ok(Host { total, free: free.saturating_sub(promised(device)) })
}

/// What writers were promised and is not on the device yet: free by `statfs`, and as good as gone.
fn promised(device: &Path) -> u64 {
    let Some(name) = device.file_name() else { return 0 };
    let filesystems = std::fs::read_dir("/sys/fs/btrfs").into_iter().flatten().flatten();
    let ours =
        filesystems.map(|one| one.path()).find(|one| one.join("devices").join(name).exists());
    let read = |name: &&str| {
        let path = ours.as_ref()?.join("allocation").join(name);
        std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok()
    };
    // In the page cache, and on the way to the device; `mixed` in a small pool.
    ["data/bytes_may_use", "data/bytes_reserved", "mixed/bytes_may_use", "mixed/bytes_reserved"]
        .iter()
        .filter_map(read)
        .sum()
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
        let by = |gib| Next::Allocate(gib * GIB);
        let cases = [
            (host(2, 2), host(200, 100), Next::Rest, "room enough"),
            (Host { total: 2 * GIB, free: GIB - 1 }, host(200, 100), by(1), "small pool"),
            (host(20, 1), host(200, 100), by(10), "by half"),
            (host(20, 7), host(200, 100), by(10), "long before it is full"),
            (host(100, 1), host(200, 100), by(16), "at most 16 GiB at a time"),
            (host(20, 1), host(200, 12), by(2), "what is left above the reserve"),
            (host(20, 0), host(200, 10), Next::Stay, "never the reserve"),
        ];
        for (pool, host, expected, why) in cases {
            assert_eq!(next(pool, host, pool.total), expected, "{why}");
        }
    }

    #[test]
    fn a_growth_that_was_cut_short_is_finished_and_not_begun_anew() {
        let pool = host(2, 0);
        for disk in [host(200, 100), host(200, 1)] {
            assert_eq!(next(pool, disk, 3 * GIB), Next::Stretch);
        }
        assert_eq!(next(pool, host(200, 100), pool.total + 4096), Next::Allocate(GIB));
    }

    #[test]
    fn the_room_is_looked_at_more_often_while_it_is_used_up() {
        assert_eq!(pause(host(40, 20), 0), CALM);
        assert_eq!(pause(host(40, 20), GIB), BUSY);
        assert_eq!(pause(host(40, 3), 0), BUSY, "little is left");
    }

    #[test]
    fn the_first_size_is_a_share_and_a_full_disk_is_refused() {
        assert_eq!(first_size(host(2000, 1000)), Some(64 * GIB));
        assert_eq!(first_size(host(200, 90)), Some(40 * GIB));
        assert_eq!(first_size(host(20, 9)), Some(4 * GIB));
        assert_eq!(first_size(host(20, 4)), Some(2 * GIB));
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
