//! What a build said.
//!
//! Promises: it never holds more than [`MAX_BYTES`]; the newest lines stay; a line is at most
//! 4 KiB; control characters and colours are removed, so it can be shown as plain text.

use std::{
    collections::VecDeque,
    fmt::Write as _,
    sync::{Arc, Mutex, PoisonError},
};

/// Most bytes kept.
pub(crate) const MAX_BYTES: usize = 1024 * 1024;

/// Longest line kept, in bytes.
const MAX_LINE: usize = 4096;

/// A bounded log. Clones share it, so it can be read while the build runs.
#[derive(Clone, Debug, Default)]
pub struct BuildLog(Arc<Mutex<Lines>>);

#[derive(Debug, Default)]
struct Lines {
    kept: VecDeque<String>,
    bytes: usize,
    dropped: u64,
}

impl BuildLog {
    /// An empty log.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a line of the platform's own.
    pub fn note(&self, text: &str) {
        self.line(&format!("» {text}"));
    }

    /// Adds one line of output.
    pub fn line(&self, text: &str) {
        let text = plain(text);
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        log.bytes += text.len() + 1;
        log.kept.push_back(text);
        while log.bytes > MAX_BYTES {
            let Some(oldest) = log.kept.pop_front() else { break };
            log.bytes -= oldest.len() + 1;
            log.dropped += 1;
        }
    }

    /// Everything that is kept, lines ended by `\n`.
    pub fn text(&self) -> String {
        let log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::with_capacity(log.bytes + 64);
        if log.dropped > 0 {
            let _ = writeln!(text, "» {} earlier lines were dropped", log.dropped);
        }
        for line in &log.kept {
            text.push_str(line);
            text.push('\n');
        }
        text
    }

    /// The last `count` lines.
    pub fn tail(&self, count: usize) -> Vec<String> {
        let log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        log.kept.iter().skip(log.kept.len().saturating_sub(count)).cloned().collect()
    }
}

/// Bytes of a process's output, cut into lines for a log.
#[derive(Debug)]
pub(crate) struct LineWriter<'a> {
    log: &'a BuildLog,
    open: Vec<u8>,
}

impl<'a> LineWriter<'a> {
    pub(crate) const fn new(log: &'a BuildLog) -> Self {
        Self { log, open: Vec::new() }
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' || self.open.len() >= MAX_LINE {
                self.flush();
            }
            if byte != b'\n' {
                self.open.push(byte);
            }
        }
    }

    fn flush(&mut self) {
        let text = String::from_utf8_lossy(&self.open);
        // A progress bar writes itself anew after `\r`; its last state is what counts.
        let text = text.trim_end_matches('\r');
        self.log.line(text.rsplit('\r').next().unwrap_or(text));
        self.open.clear();
    }
}

impl Drop for LineWriter<'_> {
    fn drop(&mut self) {
        if !self.open.is_empty() {
            self.flush();
        }
    }
}

/// Without escape sequences and control characters, at most [`MAX_LINE`] bytes.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len().min(MAX_LINE));
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        if plain.len() + char.len_utf8() > MAX_LINE {
            break;
        }
        if char == '\u{1b}' {
            // CSI: `ESC [`, parameters, one final byte from `@` to `~`.
            if chars.next_if_eq(&'[').is_some() {
                for next in chars.by_ref() {
                    if ('@'..='~').contains(&next) {
                        break;
                    }
                }
            }
        } else if char == '\t' || !char.is_control() {
            plain.push(char);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_becomes_plain_lines() {
        let log = BuildLog::new();
        {
            let mut writer = LineWriter::new(&log);
            writer.write(b"\x1b[32mgre");
            writer.write(b"en\x1b[0m\r\n10%\r50%\r100%\nopen end");
        }
        assert_eq!(log.text(), "green\n100%\nopen end\n");
        assert_eq!(log.tail(1), ["open end"]);
    }

    #[test]
    fn it_stays_bounded_and_keeps_the_newest() {
        let log = BuildLog::new();
        for number in 0..40_000 {
            log.line(&format!("{number:060}"));
        }
        let text = log.text();
        assert!(text.len() <= MAX_BYTES + 64, "{}", text.len());
        assert!(text.ends_with("39999\n") && text.starts_with("» "), "{}", &text[..80]);
        let endless = BuildLog::new();
        LineWriter::new(&endless).write(&vec![b'x'; 10 * MAX_LINE]);
        assert_eq!(endless.tail(100).len(), 10);
    }
}
