//! Time, ids and randomness, as an argument.
//!
//! Nothing below the binary reads the clock or makes an id by itself: it takes an [`Env`]. Tests
//! pass one whose clock they move and whose ids are counted, so they are exact.

use std::{fmt, sync::Arc};

use jiff::Timestamp;
use rand::{RngCore, SeedableRng, rngs::StdRng};
use uuid::Uuid;

use crate::id::{Id, Kind};

/// A source of time.
pub trait Clock: fmt::Debug + Send + Sync {
    /// The present instant.
    fn now(&self) -> Timestamp;
}

/// Time, ids and randomness. Cheap to clone.
#[derive(Clone)]
pub struct Env {
    clock: Arc<dyn Clock>,
    random: Arc<std::sync::Mutex<StdRng>>,
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Env").field("clock", &self.clock).finish_non_exhaustive()
    }
}

impl Env {
    /// The machine's clock and its source of randomness.
    pub fn system() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            random: Arc::new(std::sync::Mutex::new(StdRng::from_os_rng())),
        }
    }

    /// A given clock and a seed: two of them with the same seed make the same ids.
    pub fn fixed(clock: Arc<dyn Clock>, seed: u64) -> Self {
        Self { clock, random: Arc::new(std::sync::Mutex::new(StdRng::seed_from_u64(seed))) }
    }

    /// The present instant.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// A new id. UUIDv7 (RFC 9562 §5.7): 48 bits of milliseconds, then random bits.
    pub fn id<K: Kind>(&self) -> Id<K> {
        let ms = u64::try_from(self.now().as_millisecond()).unwrap_or(0);
        let mut random = [0; 10];
        self.fill(&mut random);
        Id::from_uuid(uuid::Builder::from_unix_timestamp_millis(ms, &random).into_uuid())
    }

    /// A random UUID in text form, for request ids and the like.
    pub fn uuid(&self) -> Uuid {
        let mut random = [0; 16];
        self.fill(&mut random);
        uuid::Builder::from_random_bytes(random).into_uuid()
    }

    /// Fills `bytes` with random bytes fit for keys and tokens.
    pub fn fill(&self, bytes: &mut [u8]) {
        let mut random = self.random.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        random.fill_bytes(bytes);
    }

    /// `length` random characters of `[a-z0-9]`: default slugs, 12 of them hold 62 bits.
    pub fn slug(&self, length: usize) -> String {
        const LETTERS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
        let mut text = String::with_capacity(length);
        while text.len() < length {
            let mut byte = [0];
            self.fill(&mut byte);
            // 252 is the largest multiple of 36 below 256: no letter is more likely than another.
            if byte[0] < 252 {
                text.push(char::from(LETTERS[usize::from(byte[0]) % 36]));
            }
        }
        text
    }

    /// `bytes` random bytes as lower-case hexadecimal digits: keys and tokens.
    pub fn token(&self, bytes: usize) -> String {
        let mut buffer = vec![0; bytes];
        self.fill(&mut buffer);
        hex::encode(buffer)
    }
}

#[derive(Debug)]
struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
    fn now(&self) -> Timestamp {
        // Whole milliseconds, as the database keeps them: what is answered at once and what is
        // read back later are the same.
        let now = Timestamp::now();
        Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
    }
}

/// A clock that stands until it is moved.
#[derive(Debug)]
pub struct ManualClock(std::sync::Mutex<Timestamp>);

impl ManualClock {
    /// Stands at `start`.
    pub fn new(start: Timestamp) -> Arc<Self> {
        Arc::new(Self(std::sync::Mutex::new(start)))
    }

    /// Moves it on.
    pub fn advance(&self, by: std::time::Duration) {
        let mut now = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *now += by;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SandboxId;

    #[test]
    fn ids_follow_the_clock_and_the_seed() {
        let clock = ManualClock::new("2026-06-01T12:00:00Z".parse().unwrap());
        let (a, b) = (Env::fixed(clock.clone(), 1), Env::fixed(clock.clone(), 1));
        let first: SandboxId = a.id();
        assert_eq!(first, b.id());
        clock.advance(std::time::Duration::from_millis(1));
        assert!(a.id::<crate::id::SandboxKind>() > first, "later ids sort later");
        assert_eq!(first.uuid().get_version_num(), 7);
        assert!(a.slug(12).chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit()));
    }
}
