//! Loop devices: a file as a block device.
//!
//! Every device is made with `LO_FLAGS_AUTOCLEAR`: it goes with its last user. While the returned
//! descriptor is open that is us, then the mount. So a crash between the two, an unmount by hand
//! and a kill at any point leave no device behind, and there is no list to keep.
#![expect(unsafe_code, reason = "ioctl takes a pointer to a structure that the kernel reads")]

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use super::check;

const LOOP_SET_CAPACITY: libc::Ioctl = 0x4C07;
const LOOP_CONFIGURE: libc::Ioctl = 0x4C0A;
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4C82;
const AUTOCLEAR: u32 = 4;
const DIRECT_IO: u32 = 16;
/// Major number of loop devices (`Documentation/admin-guide/devices.txt`).
const MAJOR: u32 = 7;
/// Another process may take the free number first.
const ATTEMPTS: u32 = 64;

/// `struct loop_info64`.
#[repr(C)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    sizelimit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

/// A loop device that lives as long as this or a mount of it.
#[derive(Debug)]
pub(crate) struct Loop {
    /// `/dev/loopN`.
    pub(crate) path: PathBuf,
    _hold: File,
}

/// Attaches `file` to a free loop device.
///
/// Direct I/O keeps the pages from being cached twice; where the file's filesystem cannot do it,
/// the kernel goes on buffered.
pub(crate) fn attach(file: &File) -> io::Result<Loop> {
    let control = File::options().read(true).write(true).open("/dev/loop-control")?;
    let mut last = io::Error::from(io::ErrorKind::ResourceBusy);
    for _ in 0..ATTEMPTS {
        // SAFETY: this request takes no argument.
        let number =
            check(unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) })?.unsigned_abs();
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let device = open_device(&path, number)?;
        match configure(&device, file) {
            Ok(()) => return Ok(Loop { path, _hold: device }),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

/// Tells the device at `path` that its file has grown.
pub(crate) fn refresh_size(path: &Path) -> io::Result<()> {
    let device = File::options().read(true).write(true).open(path)?;
    // SAFETY: this request takes no argument.
    check(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_SET_CAPACITY) })?;
    Ok(())
}

/// Opens the device; makes its node first where nothing else does (a /dev that is no devtmpfs).
fn open_device(path: &Path, number: u32) -> io::Result<File> {
    let open = || File::options().read(true).write(true).open(path);
    match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            rustix::fs::mknodat(
                rustix::fs::CWD,
                path,
                rustix::fs::FileType::BlockDevice,
                rustix::fs::Mode::from_raw_mode(0o600),
                rustix::fs::makedev(MAJOR, number),
            )?;
            open()
        }
        other => other,
    }
}

fn configure(device: &File, file: &File) -> io::Result<()> {
    let file: OwnedFd = file.as_fd().try_clone_to_owned()?;
    let config = Config {
        fd: file.as_raw_fd().unsigned_abs(),
        block_size: 0,
        info: Info {
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: 0,
            sizelimit: 0,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags: AUTOCLEAR | DIRECT_IO,
            file_name: [0; 64],
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
        },
        reserved: [0; 8],
    };
    // SAFETY: `config` has the layout that the kernel reads for this request and outlives the
    // call, and so does the descriptor that it names.
    check(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structures_have_the_sizes_of_the_header() {
        assert_eq!(size_of::<Info>(), 232);
        assert_eq!(size_of::<Config>(), 304);
    }
}
