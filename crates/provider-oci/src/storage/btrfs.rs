//! Volumes as btrfs subvolumes with a quota group each.
//!
//! Quotas are simple where the kernel has them (≥ 6.7), else classic. On a btrfs of the operator
//! this switches quotas on for the whole filesystem and leaves a mode that is on as it is.

use std::{
    ffi::CStr,
    fs::File,
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};

use super::{
    Driver, Error, Files, Tried as _, Volume, brake::Brake, grow, make_parts, reserve, volume_in,
};
use crate::{
    rootfs::mount_points,
    sys::{
        btrfs::{self, Quota},
        loopdev,
    },
};

/// Prefix of a volume that is being made.
const HALF_MADE: &str = ".new-";

const FLAGS: MountFlags = MountFlags::NOATIME.union(MountFlags::NOSUID).union(MountFlags::NODEV);
/// `nodiscard`: discarding would punch the allocated blocks out of the file again.
///
/// `metadata_ratio`: after so many chunks of data one of metadata is allocated. Without it data
/// takes every chunk, and a pool whose 8 MiB of metadata are full refuses writers, new volumes
/// and their names while a fifth of it is free.
const OPTIONS: &CStr = c"nodiscard,metadata_ratio=4";
/// While the reserve is made: metadata is allocated at once.
const FIRST_OPTIONS: &CStr = c"nodiscard,metadata_ratio=1";

/// Below this, data and metadata share their chunks, for which a pool has room for too few: one
/// writer that fills it in one go could take the last before there is any for metadata, and then
/// no volume is made however much of the reserve is given. Slower for very many files.
const SMALL: u64 = 2 << 30;

#[derive(Debug)]
pub(super) struct Btrfs {
    pool: PathBuf,
    /// Present for a loop file, which grows by need.
    grower: Option<grow::Grower>,
    /// Present with it.
    brake: Option<Arc<Brake>>,
}

/// Whether `path` is on btrfs.
pub(super) fn is_btrfs(path: &Path) -> Result<bool, Error> {
    let stat = rustix::fs::statfs(path).tried("look at the data folder")?;
    Ok(stat.f_type == btrfs::MAGIC)
}

impl Btrfs {
    /// Subvolumes of the filesystem that the data folder is on.
    pub(super) fn native(files: &Files) -> Result<Self, Error> {
        Self::at(&files.pool, None, None)
    }

    /// Subvolumes of a filesystem in a loop file, made and mounted if it is not.
    pub(super) fn on_loop(files: &Files) -> Result<Self, Error> {
        if !files.image.exists() {
            // A pool whose file was removed under it would never grow.
            crate::rootfs::unmount(&files.pool).tried("unmount a pool without a file")?;
            make_image(&files.image)?;
        }
        // One that an earlier version made was open to every user of the machine.
        fs_err::set_permissions(&files.image, PermissionsExt::from_mode(0o600))
            .tried("close pool.img")?;
        if !is_mounted(&files.pool)? {
            mount_image(&files.image, &files.pool)?;
        }
        super::make_private(&files.pool)?;
        keep_room(&files.pool)?;
        let brake = Arc::new(Brake::new(files.pool.clone()));
        let grower = grow::Grower::start(files, Arc::clone(&brake))?;
        Self::at(&files.pool, Some(grower), Some(brake))
    }

    fn at(
        pool: &Path,
        grower: Option<grow::Grower>,
        brake: Option<Arc<Brake>>,
    ) -> Result<Self, Error> {
        let this = Self { pool: pool.to_owned(), grower, brake };
        let root = this.root()?;
        if let Err(error) = btrfs::enable_quota(&root, Quota::Simple) {
            tracing::info!(%error, "no simple quotas here, using classic ones");
            btrfs::enable_quota(&root, Quota::Classic).tried("switch quotas on")?;
        }
        for name in this.names()?.iter().filter(|name| name.starts_with(HALF_MADE)) {
            btrfs::destroy_subvolume(&root, name).tried("remove a half-made volume")?;
        }
        Ok(this)
    }

    /// Opened anew for each call: a descriptor that is kept would keep the loop device after the
    /// pool was unmounted.
    fn root(&self) -> Result<File, Error> {
        File::open(&self.pool).tried("open the pool")
    }

    fn names(&self) -> Result<Vec<String>, Error> {
        fs_err::read_dir(&self.pool)
            .and_then(|entries| {
                entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
            })
            .tried("list volumes")
    }
}

impl Driver for Btrfs {
    fn create(&self, name: &str, bytes: u64) -> Result<Volume, Error> {
        let folder = self.pool.join(name);
        if folder.exists() {
            self.set_limit(name, bytes)?;
            return Ok(volume_in(name, &folder));
        }
        let root = self.root()?;
        let draft = format!("{HALF_MADE}{name}");
        let path = self.pool.join(&draft);
        if path.exists() {
            btrfs::destroy_subvolume(&root, &draft).tried("remove a half-made volume")?;
        }
        btrfs::create_subvolume(&root, &draft).tried("make a subvolume")?;
        let subvolume = File::open(&path).tried("open a subvolume")?;
        btrfs::limit(&root, &subvolume, bytes).tried("limit a subvolume")?;
        make_parts(&path).tried("make a volume's folders")?;
        fs_err::rename(&path, &folder).tried("name a volume")?;
        Ok(volume_in(name, &folder))
    }

    fn set_limit(&self, name: &str, bytes: u64) -> Result<(), Error> {
        let subvolume = File::open(self.pool.join(name)).tried("open a volume")?;
        btrfs::limit(self.root()?, &subvolume, bytes).tried("limit a volume")
    }

    fn remove(&self, name: &str) -> Result<(), Error> {
        match btrfs::destroy_subvolume(self.root()?, name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.tried("remove a volume"),
        }
    }

    fn list(&self) -> Result<Vec<Volume>, Error> {
        let names = self.names()?;
        let whole = names.iter().filter(|name| super::check_name(name).is_ok());
        Ok(whole.map(|name| volume_in(name, &self.pool.join(name))).collect())
    }

    fn brake(&self) -> Option<&Brake> {
        self.brake.as_deref()
    }

    fn close(&self) -> Result<(), Error> {
        let Some(grower) = &self.grower else { return Ok(()) };
        grower.stop();
        // Lazy: overlays that are still mounted keep the filesystem, and its device, until they go.
        match unmount(&self.pool, UnmountFlags::DETACH) {
            Err(rustix::io::Errno::INVAL) => Ok(()),
            other => other.tried("unmount the pool"),
        }
    }
}

/// Makes the loop file. Its blocks are allocated at once: a full host disk under a sparse one
/// would turn every workload's files read-only.
fn make_image(image: &Path) -> Result<(), Error> {
    let draft = image.with_extension("img.new");
    let host = rustix::fs::statvfs(image.parent().unwrap_or(image)).tried("look at the disk")?;
    let size = grow::first_size(grow::Host::of(&host))
        .ok_or_else(|| Error::Full("the disk under the data folder is nearly full".to_owned()))?;
    {
        let file = super::create_private(&draft).tried("make pool.img")?;
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, size)
            .tried("allocate pool.img")?;
    }
    format(&draft, size)?;
    fs_err::File::open(&draft).and_then(|file| file.sync_all()).tried("write pool.img")?;
    fs_err::rename(&draft, image).tried("name pool.img")
}

/// Makes a filesystem in a loop file of so many bytes.
pub(super) fn format(image: &Path, size: u64) -> Result<(), Error> {
    // `single`: a second copy of the metadata in the same file protects from nothing.
    // `-K`: discarding would give back the blocks that were just allocated.
    let mut program = Command::new("mkfs.btrfs");
    program.args(["-q", "-f", "-K", "-m", "single", "-d", "single"]);
    if size < SMALL {
        program.arg("--mixed");
    }
    run(program.arg(image))
}

fn mount_image(image: &Path, pool: &Path) -> Result<(), Error> {
    let file = File::options().read(true).write(true).open(image).tried("open pool.img")?;
    let device = loopdev::attach(&file).tried("attach pool.img to a loop device")?;
    mount(&device.path, pool, "btrfs", FLAGS, OPTIONS).tried("mount pool.img")
}

/// Sees to the reserve, if there is room for it, and to room for metadata.
fn keep_room(pool: &Path) -> Result<(), Error> {
    let options = |options| mount_remount(pool, FLAGS, options).tried("set the pool's options");
    let room = grow::room(pool, &grow::device_of(pool)?)?;
    let missing = reserve::missing(pool, room);
    if missing > 0 && room.free / 4 > missing {
        options(FIRST_OPTIONS)?;
        if let Err(error) = reserve::keep(pool) {
            tracing::warn!(%error, "no room is reserved for apps yet");
        }
    }
    options(OPTIONS)
}

pub(super) fn is_mounted(folder: &Path) -> Result<bool, Error> {
    let table = fs_err::read_to_string("/proc/self/mountinfo").tried("list mounts")?;
    Ok(mount_points(&table).any(|point| point == folder))
}

/// Runs a program; its complaint becomes the error.
pub(super) fn run(command: &mut Command) -> Result<(), Error> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output =
        command.stdin(Stdio::null()).output().tried(format!("run {name} (is it installed?)"))?;
    if output.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(io::Error::other(complaint)).tried(format!("run {name}"))
}
