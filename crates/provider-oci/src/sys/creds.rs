//! The identity that the kernel checks file access against, per thread.
#![expect(unsafe_code, reason = "setfsuid and setfsgid have no safe wrapper")]

use std::io;

use rustix::thread::{CapabilitiesSecureBits, set_capabilities_secure_bits};

/// Runs `work` on a thread of its own whose file-system uid and gid are `id`, with all
/// capabilities kept.
///
/// An overlay over idmapped layers remembers the credentials of the thread that mounts it. If that
/// thread's fsuid is outside the map, the kernel mounts it read-only and says so only in its log.
/// A thread that ends afterwards can leave no odd identity behind in a thread pool.
pub(crate) fn as_fsuid<T: Send>(
    id: u32,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    let run = || {
        // Without this bit a change of the fsuid away from 0 drops the file capabilities.
        set_capabilities_secure_bits(CapabilitiesSecureBits::NO_SETUID_FIXUP)?;
        // SAFETY: both calls change only the calling thread, which ends with this closure; they
        // take no pointer.
        unsafe {
            libc::setfsgid(id);
            libc::setfsuid(id);
        }
        // SAFETY: as above. The only way to read the value back is to set an invalid one.
        let seen = unsafe { libc::setfsuid(u32::MAX) };
        if u32::try_from(seen) != Ok(id) {
            return Err(io::Error::from_raw_os_error(libc::EPERM));
        }
        work()
    };
    std::thread::scope(|scope| match scope.spawn(run).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
