//! The slow scrub: reads every blob on the edge's disk once a day.
//!
//! A blob is checked when it enters and at its first use after a start, but a disk may damage it
//! later, or while nobody asks for it. Promises: one blob after another at a bounded rate, so that
//! visitors do not notice; a damaged one is removed at once, reported, and fetched anew until it
//! is here or control says that there is none.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    sync::Arc,
    time::Duration,
};

use miosa_types::Digest;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use crate::{load, shared::Shared};

/// Bytes that are read between two pauses.
const CHUNK: usize = 256 * 1024;

/// Rounds begin this part of their distance earlier or later, so that many edges do not read, or
/// ask control, at once. The first one after a start comes within this part.
const JITTER: u32 = 24;

/// Pause before blobs that could not be had are asked for again.
const RETRY: Duration = Duration::from_secs(5);

/// How a blob was found.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Sound,
    /// It was removed meanwhile, or cannot be opened: nothing is known of its bytes.
    Unknown,
    Damaged,
}

/// Scrubs for ever.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut is_first = true;
    // At most as many as there are blobs.
    let mut missing = Vec::new();
    loop {
        let mut random = [0; 4];
        shared.config.env.fill(&mut random);
        let every = shared.config.limits.scrub_every;
        let next = Instant::now() + pause(every, is_first, u32::from_le_bytes(random));
        is_first = false;
        while !missing.is_empty() && Instant::now() + RETRY < next {
            tokio::time::sleep(RETRY).await;
            missing = fetch(&shared, missing).await;
        }
        tokio::time::sleep_until(next).await;
        missing.extend(round(&shared).await);
        missing = fetch(&shared, missing).await;
    }
}

/// Until the next round.
fn pause(every: Duration, is_first: bool, random: u32) -> Duration {
    let jitter = (every / JITTER).mul_f64(f64::from(random) / f64::from(u32::MAX));
    if is_first { jitter } else { every.saturating_sub(every / (2 * JITTER)) + jitter }
}

/// Checks every blob that is here; those that were damaged and could not be had anew.
async fn round(shared: &Arc<Shared>) -> Vec<Digest> {
    let of = shared.clone();
    let all = tokio::task::spawn_blocking(move || of.blobs.all()).await;
    let all = match all.map_err(io::Error::other).and_then(|all| all) {
        Ok(all) => all,
        Err(error) => {
            tracing::warn!(%error, "the edge's blobs cannot be listed, and are not checked");
            return Vec::new();
        }
    };
    let mut missing = Vec::new();
    for digest in all {
        match check(&shared.blobs.path(digest), digest, shared.config.limits.scrub_rate).await {
            Found::Unknown => continue,
            Found::Sound => {}
            Found::Damaged => {
                tracing::error!(%digest, "a blob on the edge's disk is damaged; it is removed");
                shared.metrics.blobs_damaged.inc();
                shared.blobs.discard(digest);
                missing.extend(fetch(shared, vec![digest]).await);
            }
        }
        shared.metrics.blobs_checked.inc();
    }
    missing
}

/// Fetches blobs anew; those that could not be had. What control does not have nobody needs.
async fn fetch(shared: &Shared, wanted: Vec<Digest>) -> Vec<Digest> {
    let mut missing = Vec::new();
    for digest in wanted {
        match load::fetch(shared, digest).await {
            Ok(()) => tracing::info!(%digest, "a damaged blob is here again"),
            Err(error) if load::is_nowhere(&error) => {
                tracing::info!(%digest, "control does not have a blob that was damaged");
            }
            Err(error) => {
                tracing::warn!(%digest, %error, "a damaged blob cannot be had anew yet");
                missing.push(digest);
            }
        }
    }
    missing
}

/// Reads a blob at `rate` bytes a second.
async fn check(path: &Path, digest: Digest, rate: u64) -> Found {
    let path = path.to_owned();
    let opened = tokio::task::spawn_blocking(move || File::open(path)).await;
    let mut file = match opened.map_err(io::Error::other).and_then(|opened| opened) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Found::Unknown,
        Err(error) => {
            tracing::warn!(%digest, %error, "a blob cannot be opened, and is not checked");
            return Found::Unknown;
        }
    };
    let (mut hash, began, mut bytes) = (Sha256::new(), Instant::now(), 0);
    loop {
        let step = tokio::task::spawn_blocking(move || {
            let mut chunk = vec![0; CHUNK];
            let read = file.read(&mut chunk)?;
            hash.update(&chunk[..read]);
            Ok((file, hash, read))
        });
        let read;
        (file, hash, read) = match step.await {
            Ok(Ok(read)) => read,
            // A sector that cannot be read is damage as well.
            Ok(Err(error)) => {
                let error: io::Error = error;
                tracing::error!(%digest, %error, "a blob cannot be read");
                return Found::Damaged;
            }
            // The edge ends.
            Err(_) => return Found::Unknown,
        };
        if read == 0 {
            break;
        }
        bytes += read as u64;
        tokio::time::sleep_until(began + due(bytes, rate)).await;
    }
    let is_sound = Digest::from_bytes(hash.finalize().into()) == digest;
    if is_sound { Found::Sound } else { Found::Damaged }
}

/// When so many bytes may have been read.
fn due(bytes: u64, rate: u64) -> Duration {
    let micros = u128::from(bytes) * 1_000_000 / u128::from(rate.max(1));
    Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_a_day_apart_and_not_at_the_same_time() {
        let hours = |hours: f64| Duration::from_secs_f64(hours * 3600.0);
        let day = hours(24.0);
        let cases = [
            (true, 0, hours(0.0)),
            (true, u32::MAX, hours(1.0)),
            (false, 0, hours(23.5)),
            (false, u32::MAX, hours(24.5)),
        ];
        for (is_first, random, wanted) in cases {
            assert_eq!(pause(day, is_first, random), wanted, "{is_first} {random}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_are_read_at_the_rate_and_damage_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("blob");
        let mut bytes = vec![7; 3 * CHUNK];
        let digest = Digest::of(&bytes);
        fs_err::write(&path, &bytes).unwrap();
        let began = Instant::now();
        assert_eq!(check(&path, digest, CHUNK as u64).await, Found::Sound);
        assert_eq!(began.elapsed().as_secs(), 3);
        bytes[CHUNK] ^= 1;
        fs_err::write(&path, &bytes).unwrap();
        assert_eq!(check(&path, digest, u64::MAX).await, Found::Damaged);
        fs_err::write(&path, &bytes[..CHUNK]).unwrap();
        assert_eq!(check(&path, digest, u64::MAX).await, Found::Damaged, "it lost its end");
        assert_eq!(check(&dir.path().join("none"), digest, 1).await, Found::Unknown);
    }
}
