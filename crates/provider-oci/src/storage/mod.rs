//! Volumes: the writable part of a workload's root filesystem, each with a limit.
//!
//! Promises: `create`, `set_limit` and `remove` are idempotent and safe against a crash at any
//! point: a half-made volume is never listed and is removed at the next open. Volumes survive the
//! restart of control and of the machine. What [`Storage::is_hard`] says was seen: at every open
//! a write is made to fail by the limit.
//!
//! Drivers, in the order they are tried:
//!
//! | driver | limit | needs |
//! |---|---|---|
//! | btrfs, native | hard | the data folder is on btrfs |
//! | btrfs on a loop file, `pool.img` | hard | btrfs, loop devices, mkfs.btrfs |
//! | one ext4 image per volume | hard; can grow, cannot shrink | loop devices, mkfs.ext4 |
//! | folders | none: soft | nothing |
//!
//! XFS project quotas are not among them: the kernels at hand have no quota support for XFS, so
//! such a driver could not be tested, and the loop file gives every host what it would give.
//!
//! All calls block: microseconds, except `open` and the creation of an ext4 image (about 50 ms).
//! The choice is kept in `pool.kind`; another driver is never slipped under existing volumes.

mod brake;
mod btrfs;
mod ext4;
mod grow;
mod reserve;
mod soft;

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// One volume. Both folders are on one filesystem and owned by root, mode 0755.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Upper folder of the overlay: what the workload wrote.
    pub upper: PathBuf,
    /// Work folder of the overlay.
    pub work: PathBuf,
}

/// How volumes are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StorageKind {
    /// Subvolumes of the btrfs that the data folder is on.
    Btrfs,
    /// Subvolumes of a btrfs in a loop file.
    BtrfsLoop,
    /// One ext4 image per volume.
    Ext4Image,
    /// Plain folders without limits.
    Soft,
}

impl fmt::Display for StorageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Btrfs => "btrfs",
            Self::BtrfsLoop => "btrfs-loop",
            Self::Ext4Image => "ext4-image",
            Self::Soft => "soft",
        })
    }
}

/// Why a storage call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller must ask for something else.
    #[error("volume refused: {0}")]
    Invalid(String),
    /// Free some disk, or use another host.
    #[error("no room for volumes: {0}")]
    Full(String),
    /// The operator must look.
    #[error("storage: cannot {action}: {source}")]
    Io {
        /// What was tried.
        action: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Adds what was tried to an I/O error.
trait Tried<T> {
    fn tried(self, action: impl fmt::Display) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> Tried<T> for Result<T, E> {
    fn tried(self, action: impl fmt::Display) -> Result<T, Error> {
        self.map_err(|error| {
            let source = error.into();
            // What a quota refuses to the platform itself is no other case: it needs room.
            match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    Error::Full(format!("cannot {action}: {source}"))
                }
                _ => Error::Io { action: action.to_string(), source },
            }
        })
    }
}

/// What a driver does; names were checked before.
trait Driver: fmt::Debug + Send + Sync {
    fn create(&self, name: &str, bytes: u64) -> Result<Volume, Error>;
    fn set_limit(&self, name: &str, bytes: u64) -> Result<(), Error>;
    fn remove(&self, name: &str) -> Result<(), Error>;
    fn list(&self) -> Result<Vec<Volume>, Error>;
    /// What holds sandboxes when room is short, for volumes that share a pool that cannot grow.
    fn brake(&self) -> Option<&brake::Brake> {
        None
    }
    /// Unmounts; volumes stay on disk.
    fn close(&self) -> Result<(), Error>;
}

/// The volumes of one installation.
#[derive(Debug)]
pub struct Storage {
    kind: StorageKind,
    files: Files,
    driver: Box<dyn Driver>,
}

/// Where everything lies.
#[derive(Clone, Debug)]
struct Files {
    /// Folder of the volumes; the mount point of the loop file.
    pool: PathBuf,
    /// The loop file.
    image: PathBuf,
    /// Which driver was chosen.
    kind: PathBuf,
}

impl Files {
    fn of(data_dir: &Path) -> Self {
        Self {
            pool: data_dir.join("pool"),
            image: data_dir.join("pool.img"),
            kind: data_dir.join("pool.kind"),
        }
    }
}

impl Storage {
    /// Opens the volumes under `data_dir`, mounts what must be mounted, removes what a crash left
    /// half made. On first use picks the first driver that works and whose limit holds.
    pub fn open(data_dir: &Path) -> Result<Self, Error> {
        let files = Files::of(data_dir);
        make_private(&files.pool)?;
        match fs_err::read(&files.kind) {
            Ok(bytes) => {
                let kind = serde_json::from_slice(&bytes).tried("read pool.kind")?;
                return Self::open_as(kind, &files);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).tried("read pool.kind"),
        }
        let storage = Self::pick(&files)?;
        let text = serde_json::to_vec(&storage.kind).tried("write pool.kind")?;
        create_private(&files.kind)
            .and_then(|mut file| io::Write::write_all(&mut file, &text))
            .tried("write pool.kind")?;
        Ok(storage)
    }

    /// Opens with one driver; for tests and for an operator who knows better.
    fn open_as(kind: StorageKind, files: &Files) -> Result<Self, Error> {
        let driver: Box<dyn Driver> = match kind {
            StorageKind::Btrfs => Box::new(btrfs::Btrfs::native(files)?),
            StorageKind::BtrfsLoop => Box::new(btrfs::Btrfs::on_loop(files)?),
            StorageKind::Ext4Image => Box::new(ext4::Images::open(files)?),
            StorageKind::Soft => Box::new(soft::Folders::open(files)?),
        };
        let storage = Self { kind, files: files.clone(), driver };
        storage.sweep_probe()?;
        if kind != StorageKind::Soft {
            storage.provoke()?;
        }
        Ok(storage)
    }

    fn pick(files: &Files) -> Result<Self, Error> {
        // Not of the pool itself: the loop file may be mounted there already.
        let is_btrfs = btrfs::is_btrfs(files.pool.parent().unwrap_or(&files.pool))?;
        let kinds = [
            if is_btrfs { StorageKind::Btrfs } else { StorageKind::BtrfsLoop },
            StorageKind::Ext4Image,
            StorageKind::Soft,
        ];
        let mut last = None;
        for kind in kinds {
            match Self::open_as(kind, files) {
                Ok(storage) => return Ok(storage),
                Err(error) => {
                    remove_files(kind, files)?;
                    // What is picked stays for good; a disk that is full now need not be tomorrow.
                    if matches!(error, Error::Full(_)) {
                        return Err(error);
                    }
                    tracing::warn!(%kind, %error, "this way to keep volumes does not work here");
                    make_private(&files.pool)?;
                    last = Some(error);
                }
            }
        }
        Err(last.unwrap_or_else(|| Error::Invalid("no driver".to_owned())))
    }

    /// Makes a volume, or finds it and sets its limit. Unit: MiB.
    pub fn create(&self, name: &str, disk_mib: u64) -> Result<Volume, Error> {
        check_name(name)?;
        self.driver.create(name, bytes(disk_mib)?)
    }

    /// Changes a volume's limit. Unit: MiB.
    pub fn set_limit(&self, name: &str, disk_mib: u64) -> Result<(), Error> {
        check_name(name)?;
        match self.driver.brake() {
            Some(brake) => brake.set_limit(name, bytes(disk_mib)?),
            None => self.driver.set_limit(name, bytes(disk_mib)?),
        }
    }

    /// Counts a volume among those of sandboxes: when the pool is short of room and cannot grow,
    /// they are held at what they use, so that the rest is left to the others. Unit: MiB.
    pub fn yields(&self, name: &str, disk_mib: u64) -> Result<(), Error> {
        check_name(name)?;
        self.driver.brake().map_or(Ok(()), |brake| brake.add(name, bytes(disk_mib)?))
    }

    /// Whether sandboxes are held, so that a new one could not write.
    pub fn is_short(&self) -> bool {
        self.driver.brake().is_some_and(brake::Brake::is_on)
    }

    /// Removes a volume with its content; `Ok` if there is none.
    pub fn remove(&self, name: &str) -> Result<(), Error> {
        check_name(name)?;
        if let Some(brake) = self.driver.brake() {
            brake.remove(name);
        }
        self.driver.remove(name)
    }

    /// All volumes, by name.
    pub fn list(&self) -> Result<Vec<Volume>, Error> {
        let mut volumes = self.driver.list()?;
        volumes.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(volumes)
    }

    /// The driver in use.
    pub const fn kind(&self) -> StorageKind {
        self.kind
    }

    /// Whether the kernel enforces the limits.
    pub fn is_hard(&self) -> bool {
        self.kind != StorageKind::Soft
    }

    /// Unmounts everything and detaches loop devices; volumes stay on disk for the next open.
    pub fn close(self) -> Result<(), Error> {
        self.driver.close()
    }

    /// Removes every volume and everything that holds them.
    pub fn destroy(self) -> Result<(), Error> {
        for volume in self.list()? {
            self.remove(&volume.name)?;
        }
        self.driver.close()?;
        remove_files(self.kind, &self.files)
    }

    /// What [`Storage::destroy`] does, for an installation that is not open here. It may not even
    /// be whole: after `rm -rf` of a data folder its pool is still mounted.
    pub fn destroy_at(data_dir: &Path) -> Result<(), Error> {
        let files = Files::of(data_dir);
        let kind = fs_err::read(&files.kind).ok();
        let kind = kind.and_then(|text| serde_json::from_slice(&text).ok());
        // Subvolumes of a disk that stays are removed one by one; all others go with their files.
        if kind == Some(StorageKind::Btrfs) {
            match Self::open(data_dir) {
                Ok(storage) => return storage.destroy(),
                Err(error) => {
                    tracing::warn!(%error, "the volumes cannot be opened; removing their files");
                }
            }
        }
        remove_files(kind.unwrap_or(StorageKind::BtrfsLoop), &files)
    }

    /// Sees the limit hold: writes past it must fail.
    fn provoke(&self) -> Result<(), Error> {
        const LIMIT: u64 = 8 << 20;
        let volume = self.driver.create(PROBE, LIMIT)?;
        let seen = overfill(&volume.upper.join("fill"), LIMIT * 3);
        self.driver.remove(PROBE)?;
        match seen {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::QuotaExceeded | io::ErrorKind::StorageFull
                ) =>
            {
                Ok(())
            }
            Err(error) => Err(error).tried("write to a volume"),
            Ok(()) => Err(Error::Io {
                action: "limit a volume".to_owned(),
                source: io::Error::other("three times as much as the limit could be written"),
            }),
        }
    }

    fn sweep_probe(&self) -> Result<(), Error> {
        self.driver.remove(PROBE)
    }
}

/// The volume that [`Storage::provoke`] fills; no name that [`check_name`] allows.
const PROBE: &str = "probe_";

fn overfill(path: &Path, bytes: u64) -> io::Result<()> {
    use io::Write as _;
    let mut file = fs_err::File::create(path)?;
    let block = vec![0x5a; 1 << 20];
    for _ in 0..bytes / (1 << 20) {
        file.write_all(&block)?;
        // Quota that is counted at write-back would be noticed only now.
        file.sync_data()?;
    }
    Ok(())
}

fn bytes(mib: u64) -> Result<u64, Error> {
    // Below this the filesystem's own blocks do not fit.
    const LEAST_MIB: u64 = 16;
    mib.max(LEAST_MIB)
        .checked_mul(1 << 20)
        .ok_or_else(|| Error::Invalid(format!("{mib} MiB is no size of a disk")))
}

fn check_name(name: &str) -> Result<(), Error> {
    let is_fine = !name.is_empty()
        && name.len() <= 100
        && !name.starts_with('-')
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if is_fine {
        return Ok(());
    }
    Err(Error::Invalid(format!("`{name}` is no name of a volume: 1 to 100 of a-z, 0-9, -")))
}

/// The volumes hold real setuid-root files: nobody but root may get at them from outside.
fn make_private(folder: &Path) -> Result<(), Error> {
    use std::os::unix::fs::PermissionsExt as _;
    fs_err::create_dir_all(folder).tried("make the folder of volumes")?;
    fs_err::set_permissions(folder, std::fs::Permissions::from_mode(0o700))
        .tried("close the folder of volumes")
}

/// A new image of volumes: every tenant's files are in it, for root alone.
fn create_private(path: &Path) -> io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    absent_ok(fs_err::remove_file(path))?;
    std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Removes the files of a driver whose volumes are gone or never were.
fn remove_files(kind: StorageKind, files: &Files) -> Result<(), Error> {
    for mount in crate::rootfs::mounts_under(&files.pool).tried("list mounts")? {
        crate::rootfs::unmount(&mount).tried("unmount a volume")?;
    }
    if kind != StorageKind::Btrfs {
        crate::rootfs::unmount(&files.pool).tried("unmount the pool")?;
    }
    let draft = files.image.with_extension("img.new");
    for path in [&files.image, &draft, &files.kind] {
        absent_ok(fs_err::remove_file(path)).tried("remove a file of the pool")?;
    }
    absent_ok(fs_err::remove_dir_all(&files.pool)).tried("remove the folder of volumes")
}

fn absent_ok(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Upper and work folder under `folder`, made if absent.
fn volume_in(name: &str, folder: &Path) -> Volume {
    Volume { name: name.to_owned(), upper: folder.join("u"), work: folder.join("w") }
}

/// Makes upper and work folder under `folder`.
fn make_parts(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    for part in ["u", "w"] {
        let path = folder.join(part);
        fs_err::create_dir(&path)?;
        fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
