//! How long things took, counted by upper bounds, as `/metrics` shows it.

use std::time::Duration;

/// Durations by their upper bounds, in milliseconds and rising.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Histogram<const N: usize> {
    /// The bounds.
    pub bounds_ms: &'static [u64; N],
    /// How many took no longer than each of them; not cumulative.
    pub buckets: [u64; N],
    /// All of them, those beyond the last bound too.
    pub count: u64,
    /// All durations together.
    pub sum: Duration,
}

impl<const N: usize> Histogram<N> {
    /// Nothing yet.
    pub const fn new(bounds_ms: &'static [u64; N]) -> Self {
        Self { bounds_ms, buckets: [0; N], count: 0, sum: Duration::ZERO }
    }

    /// Counts one.
    pub fn record(&mut self, took: Duration) {
        let place = self.bounds_ms.iter().position(|bound| took <= Duration::from_millis(*bound));
        if let Some(bucket) = place.and_then(|place| self.buckets.get_mut(place)) {
            *bucket += 1;
        }
        self.count += 1;
        self.sum = self.sum.saturating_add(took);
    }

    /// The mean; `None` while there was none.
    pub fn mean(&self) -> Option<Duration> {
        u32::try_from(self.count).ok().and_then(|count| self.sum.checked_div(count))
    }

    /// Each bound and how many took no longer.
    pub fn at_most(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        self.bounds_ms.iter().zip(&self.buckets).scan(0, |below, (bound, count)| {
            *below += count;
            Some((Duration::from_millis(*bound), *below))
        })
    }
}
