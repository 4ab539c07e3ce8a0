//! Collects every child that ended: those we started and, as PID 1, orphans.
//!
//! Promises: one place alone calls `wait`, on the runtime's only thread, so a process id that is
//! still in [`Children`] is that of the process we started and not of a later one.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, PoisonError},
};

use rustix::process::{WaitOptions, WaitStatus, wait};
use tokio::sync::oneshot;

use crate::sys;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl Exit {
    /// The number that shells give: 128 + signal if it was one.
    pub(crate) const fn code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }

    fn from_status(status: WaitStatus) -> Self {
        match status.terminating_signal() {
            Some(signal) => Self::Signal(signal),
            None => Self::Code(status.exit_status().unwrap_or(-1)),
        }
    }
}

/// Who waits for which child.
#[derive(Clone, Debug, Default)]
pub(crate) struct Children(Arc<Mutex<HashMap<i32, oneshot::Sender<Exit>>>>);

impl Children {
    /// Tells how the child `pid` ends. To be called on the runtime's thread right after the
    /// start, before anything is awaited.
    pub(crate) fn watch(&self, pid: i32) -> oneshot::Receiver<Exit> {
        let (tx, rx) = oneshot::channel();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(pid, tx);
        rx
    }

    /// Whether the child was not collected yet, so that its id is still its own.
    pub(crate) fn is_ours(&self, pid: i32) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&pid)
    }

    /// Collects children for ever.
    pub(crate) async fn reap(self) -> io::Result<()> {
        let events = sys::watch(sys::child_events()?)?;
        loop {
            self.collect();
            let mut ready = events.readable().await?;
            // The content does not matter: signals of several children are merged into one.
            let mut info = [0; 128];
            while rustix::io::read(events.get_ref(), &mut info).is_ok() {}
            ready.clear_ready();
        }
    }

    fn collect(&self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_nonzero().get();
            let watcher = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&pid);
            if let Some(watcher) = watcher {
                // Nobody may care any more.
                let _ = watcher.send(Exit::from_status(status));
            }
        }
    }
}
