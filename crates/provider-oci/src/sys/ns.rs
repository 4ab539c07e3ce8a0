//! Network namespaces, entered only on threads that end afterwards.
#![expect(unsafe_code, reason = "unshare is unsafe for the flags that share memory; ours are not")]

use std::{fs::File, io, os::fd::OwnedFd};

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

/// A new network namespace, owned by the user namespace of this process. It lives as long as the
/// descriptor or anything in it; bind-mount `/proc/self/fd/N` to keep it longer.
pub(crate) fn new_netns() -> io::Result<OwnedFd> {
    on_own_thread(|| {
        // SAFETY: NEWNET touches neither memory nor descriptors that are shared with others, and
        // the thread ends with this closure.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
        Ok(File::open("/proc/thread-self/ns/net")?.into())
    })
}

/// Runs `work` inside the network namespace `netns`, on a thread of its own.
pub(crate) fn in_netns<T: Send>(
    netns: &OwnedFd,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    on_own_thread(|| {
        move_into_link_name_space(
            std::os::fd::AsFd::as_fd(netns),
            Some(LinkNameSpaceType::Network),
        )?;
        work()
    })
}

/// Runs `work` on a thread that ends with it, so that no thread pool keeps its namespaces.
fn on_own_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| match scope.spawn(work).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
