//! The one program of a runtime instance: start, log, end with it.
//!
//! Promises: the guest ends when the program ends, with its code, after writing that code to the
//! descriptor the runtime handed over. Output goes to the guest's own standard output, a file of
//! the host that is kept below [`MAX_LOG`].

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::PoisonError,
};

use crate::{
    config,
    process::{self, Channel, End, Request, Sink},
    state::State,
    sys,
};

/// Size at which the older half of the log is cut off, bytes.
const MAX_LOG: u64 = 8 << 20;
/// What `/logs` can tell, bytes.
const MAX_TAIL: usize = 64 << 10;

/// The last output.
#[derive(Debug, Default)]
pub(crate) struct Tail(VecDeque<u8>);

impl Tail {
    /// Appends, and forgets what is too old.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(MAX_TAIL)..];
        let excess = (self.0.len() + bytes.len()).saturating_sub(MAX_TAIL);
        self.0.drain(..excess);
        self.0.extend(bytes);
    }

    /// At most the last `limit` bytes.
    pub(crate) fn last(&self, limit: usize) -> Vec<u8> {
        self.0.iter().skip(self.0.len().saturating_sub(limit)).copied().collect()
    }
}

/// Runs the program to its end and returns the code to exit with.
pub(crate) async fn run(state: &State, command: &config::Command) -> i32 {
    let request = Request {
        argv: command.argv.clone(),
        env: command.env.clone(),
        cwd: Some(command.cwd.clone()),
        user: command.user.clone(),
        ..Request::default()
    };
    let mut log = Log { state, written: sys::length_of_out() };
    match process::start(state, request) {
        Ok(started) => started.run(state, log).await.exit.code(),
        Err(error) => {
            log.write(format!("cannot start the command: {}\n", error.message).as_bytes());
            // As shells do: 127 not found, 126 cannot be run.
            if error.code == crate::error::Code::NotFound { 127 } else { 126 }
        }
    }
}

/// Tells the runtime the code, where it wants to know.
pub(crate) fn report(code: i32, to: Option<std::fs::File>) {
    if let Some(mut file) = to {
        // The runtime also sees the exit itself; nothing more can be done here.
        let _ = file.write_all(format!("{code}\n").as_bytes());
    }
}

struct Log<'a> {
    state: &'a State,
    /// Since the last cut.
    written: u64,
}

impl Log<'_> {
    fn write(&mut self, bytes: &[u8]) {
        self.state.tail.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
        let out = io::stdout();
        if self.written + bytes.len() as u64 > MAX_LOG {
            const HALF: i64 = 4 << 20;
            // A log that is no file cannot be cut and needs no bound.
            let _ = sys::drop_front(&out, HALF);
            self.written = MAX_LOG / 2;
        }
        self.written += bytes.len() as u64;
        // A full host disk must not end the app.
        let _ = sys::write_out(bytes);
    }
}

impl Sink for Log<'_> {
    async fn output(&mut self, _: Channel, bytes: &[u8]) {
        self.write(bytes);
    }

    async fn end(&mut self, _: End) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_keeps_the_newest() {
        let mut tail = Tail::default();
        tail.push(&vec![b'a'; MAX_TAIL - 1]);
        tail.push(b"bcd");
        assert_eq!(tail.last(4), b"abcd");
        assert_eq!(tail.last(usize::MAX).len(), MAX_TAIL);
        tail.push(&vec![b'z'; 3 * MAX_TAIL]);
        assert_eq!(tail.last(usize::MAX), vec![b'z'; MAX_TAIL]);
    }
}
