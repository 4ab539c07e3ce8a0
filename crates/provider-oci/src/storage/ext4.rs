//! Volumes as one ext4 image each, on loop devices: a hard limit on any kernel.
//!
//! `NAME.img` beside the folder `NAME` that it is mounted at. Images are sparse: limits are
//! ceilings, not reservations. A mounted image can
//! grow, if we have `CAP_SYS_RESOURCE`, and not shrink.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    process::Command,
};

use rustix::mount::{MountFlags, mount};

use super::{
    Driver, Error, Files, Tried as _, Volume, absent_ok,
    btrfs::{is_mounted, run},
    make_parts, volume_in,
};
use crate::sys::loopdev;

#[derive(Debug)]
pub(super) struct Images {
    pool: PathBuf,
}

impl Images {
    /// Mounts every whole image and removes the others.
    pub(super) fn open(files: &Files) -> Result<Self, Error> {
        let this = Self { pool: files.pool.clone() };
        for path in this.files("new")? {
            fs_err::remove_file(&path).tried("remove a half-made image")?;
        }
        for path in this.files("img")? {
            mount_image(&path)?;
        }
        Ok(this)
    }

    fn image(&self, name: &str) -> PathBuf {
        self.pool.join(format!("{name}.img"))
    }

    /// Files of the pool with this extension.
    fn files(&self, extension: &str) -> Result<Vec<PathBuf>, Error> {
        let entries = fs_err::read_dir(&self.pool).tried("list volumes")?;
        let paths: Vec<PathBuf> = entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<io::Result<_>>()
            .tried("list volumes")?;
        Ok(paths
            .into_iter()
            .filter(|path| path.extension().is_some_and(|found| found == extension))
            .collect())
    }
}

/// Mounts an image at the folder of its name, if it is not, and makes the parts.
fn mount_image(image: &Path) -> Result<PathBuf, Error> {
    let folder = image.with_extension("");
    fs_err::create_dir_all(&folder).tried("make a mount point")?;
    if !is_mounted(&folder)? {
        let file = File::options().read(true).write(true).open(image).tried("open an image")?;
        let device = loopdev::attach(&file).tried("attach an image to a loop device")?;
        let flags = MountFlags::NOATIME | MountFlags::NOSUID | MountFlags::NODEV;
        mount(&device.path, &folder, "ext4", flags, None).tried("mount an image")?;
    }
    if !folder.join("w").exists() {
        make_parts(&folder).tried("make a volume's folders")?;
    }
    Ok(folder)
}

impl Driver for Images {
    fn create(&self, name: &str, bytes: u64) -> Result<Volume, Error> {
        let image = self.image(name);
        if image.exists() {
            self.set_limit(name, bytes)?;
        } else {
            let draft = self.pool.join(format!("{name}.new"));
            let file = super::create_private(&draft).tried("make an image")?;
            file.set_len(bytes).tried("size an image")?;
            run(Command::new("mkfs.ext4")
                .args(["-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,nodiscard"])
                .arg(&draft))?;
            fs_err::rename(&draft, &image).tried("name an image")?;
        }
        Ok(volume_in(name, &mount_image(&image)?))
    }

    fn set_limit(&self, name: &str, bytes: u64) -> Result<(), Error> {
        let image = self.image(name);
        let file = File::options().write(true).open(&image).tried("open an image")?;
        let size = file.metadata().tried("look at an image")?.len();
        if bytes < size {
            return Err(Error::Invalid(format!(
                "an ext4 image of {} MiB cannot shrink to {} MiB",
                size >> 20,
                bytes >> 20
            )));
        }
        if bytes == size {
            return Ok(());
        }
        file.set_len(bytes).tried("grow an image")?;
        let device = device_of(&image.with_extension(""))?;
        loopdev::refresh_size(&device).tried("grow a loop device")?;
        let grown = run(Command::new("resize2fs").arg(&device));
        if grown.is_err() {
            // The size of the image is the record of the limit.
            file.set_len(size).tried("shrink an image back")?;
            loopdev::refresh_size(&device).tried("shrink a loop device back")?;
        }
        grown
    }

    fn remove(&self, name: &str) -> Result<(), Error> {
        let image = self.image(name);
        let folder = image.with_extension("");
        crate::rootfs::unmount(&folder).tried("unmount a volume")?;
        absent_ok(fs_err::remove_file(&image)).tried("remove an image")?;
        absent_ok(fs_err::remove_dir(&folder)).tried("remove a mount point")
    }

    fn list(&self) -> Result<Vec<Volume>, Error> {
        let images = self.files("img")?;
        let folders = images.iter().map(|image| image.with_extension(""));
        Ok(folders
            .filter_map(|folder| Some((folder.file_name()?.to_str()?.to_owned(), folder)))
            .filter(|(name, _)| super::check_name(name).is_ok())
            .map(|(name, folder)| volume_in(&name, &folder))
            .collect())
    }

    fn close(&self) -> Result<(), Error> {
        for image in self.files("img")? {
            crate::rootfs::unmount(&image.with_extension("")).tried("unmount a volume")?;
        }
        Ok(())
    }
}

fn device_of(folder: &Path) -> Result<PathBuf, Error> {
    let table = fs_err::read_to_string("/proc/self/mountinfo").tried("list mounts")?;
    super::grow::source_of(&table, folder)
        .ok_or_else(|| io::Error::other("the volume is not mounted"))
        .tried("find the loop device")
}
