//! What the warm pool did since control started: hits, misses, waits, refills that failed.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use miosa_store::sandboxes::BootPath;

use crate::histogram::Histogram;

/// Upper bounds of the histogram's buckets, in milliseconds.
const BOUNDS_MS: [u64; 12] = [5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000];

/// Counters; all from the start of control.
#[derive(Debug)]
pub struct Stats {
    hits: AtomicU64,
    misses: AtomicU64,
    refill_failures: AtomicU64,
    warm: Mutex<Waits>,
    cold: Mutex<Waits>,
}

/// How long sandboxes took from create until they took commands.
pub type Waits = Histogram<{ BOUNDS_MS.len() }>;

impl Default for Stats {
    fn default() -> Self {
        let none = || Mutex::new(Waits::new(&BOUNDS_MS));
        let (hits, misses, refill_failures) = Default::default();
        Self { hits, misses, refill_failures, warm: none(), cold: none() }
    }
}

impl Stats {
    /// A sandbox was made, from a slot or not.
    pub fn took(&self, is_hit: bool) {
        let counter = if is_hit { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Slots that could not be started, or that ended while nobody had them.
    pub fn failed(&self, count: u64) {
        self.refill_failures.fetch_add(count, Ordering::Relaxed);
    }

    /// A sandbox took commands for the first time.
    pub fn ready(&self, boot_path: BootPath, wait: Duration) {
        self.of(boot_path).lock().unwrap_or_else(PoisonError::into_inner).record(wait);
    }

    fn of(&self, boot_path: BootPath) -> &Mutex<Waits> {
        if boot_path == BootPath::Warm { &self.warm } else { &self.cold }
    }

    /// Sandboxes that got a slot.
    pub fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }

    /// Sandboxes for which there was none.
    pub fn misses(&self) -> u64 {
        self.misses.load(Ordering::Relaxed)
    }

    /// Slots that failed.
    pub fn refill_failures(&self) -> u64 {
        self.refill_failures.load(Ordering::Relaxed)
    }

    /// How long sandboxes took that came up so.
    pub fn waits(&self, boot_path: BootPath) -> Waits {
        *self.of(boot_path).lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_in_the_first_bucket_that_holds_it() {
        let stats = Stats::default();
        for ms in [0, 5, 6, 30_000, 30_001] {
            stats.ready(BootPath::Warm, Duration::from_millis(ms));
        }
        let waits = stats.waits(BootPath::Warm);
        assert_eq!((waits.buckets[0], waits.buckets[1], waits.buckets[11]), (2, 1, 1));
        assert_eq!((waits.count, waits.mean()), (5, Some(Duration::from_micros(12_002_400))));
        assert_eq!(stats.waits(BootPath::Cold).mean(), None);
    }
}
