//! How long to wait before something that failed is tried again.

use std::time::Duration;

use miosa_types::Env;

/// Pauses that double with each failure in a row, up to a longest one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackOff {
    /// After the first failure.
    pub first: Duration,
    /// Never longer than this.
    pub longest: Duration,
}

impl BackOff {
    /// The pause after that many failures in a row; none after none.
    pub fn pause(&self, failures: u32) -> Duration {
        let Some(doublings) = failures.checked_sub(1) else { return Duration::ZERO };
        let factor = 2_u32.checked_pow(doublings).unwrap_or(u32::MAX);
        self.first.saturating_mul(factor).min(self.longest)
    }

    /// Between a half of [`BackOff::pause`] and all of it, so that what failed together is not
    /// tried again together.
    pub fn spread(&self, failures: u32, env: &Env) -> Duration {
        let mut random = [0];
        env.fill(&mut random);
        let half = self.pause(failures) / 2;
        half + half * u32::from(random[0]) / 255
    }
}

#[cfg(test)]
mod tests {
    use miosa_types::env::ManualClock;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pauses_grow_and_stay_within_their_bounds(failures in 1..100_u32, seed in any::<u64>()) {
            let (first, longest) = (Duration::from_secs(1), Duration::from_mins(1));
            let rest = BackOff { first, longest };
            let pause = rest.pause(failures);
            prop_assert!(first <= pause && pause <= longest);
            prop_assert_eq!(pause, (first * 2_u32.pow(failures.min(7) - 1)).min(longest));
            let clock = ManualClock::new("2026-06-01T12:00:00Z".parse().unwrap());
            let spread = rest.spread(failures, &Env::fixed(clock, seed));
            prop_assert!(pause / 2 <= spread && spread <= pause);
        }
    }
}
