//! When a child that ended is started again.
//!
//! At once; but a child that keeps ending young waits a little longer each time, so that a
//! broken start does not burn a core. Pure: time is an argument.

use std::time::Duration;

use tokio::time::Instant;

/// A child that lived this long is not young.
const YOUNG: Duration = Duration::from_secs(5);

/// Deaths that are answered at once before the back-off begins.
const FREE: u32 = 2;

/// Longest wait; a child is back within a second.
const MAX_WAIT: Duration = Duration::from_millis(900);

/// The history of one child.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Restarts {
    started_at: Option<Instant>,
    young_deaths: u32,
    not_before: Option<Instant>,
}

impl Restarts {
    pub(super) fn started(&mut self, now: Instant) {
        self.started_at = Some(now);
    }

    pub(super) fn ended(&mut self, now: Instant) {
        let is_young = self.started_at.is_some_and(|at| now.duration_since(at) < YOUNG);
        self.young_deaths = if is_young { self.young_deaths.saturating_add(1) } else { 0 };
        let wait = match self.young_deaths.checked_sub(FREE + 1) {
            None => Duration::ZERO,
            Some(more) => Duration::from_millis(50 << more.min(10)).min(MAX_WAIT),
        };
        self.not_before = Some(now + wait);
    }

    /// How long to wait before the next start.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        self.not_before.map_or(Duration::ZERO, |at| at.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_back_at_once_unless_it_keeps_dying_young() {
        let mut restarts = Restarts::default();
        let mut now = Instant::now();
        let mut waits = Vec::new();
        for _ in 0..10 {
            restarts.started(now);
            now += Duration::from_millis(10);
            restarts.ended(now);
            waits.push(restarts.wait(now));
            now += restarts.wait(now);
        }
        assert_eq!(waits[..2], [Duration::ZERO; 2]);
        assert!(waits.windows(2).all(|pair| pair[0] <= pair[1]), "{waits:?}");
        assert_eq!(waits[9], MAX_WAIT);
        restarts.started(now);
        now += YOUNG;
        restarts.ended(now);
        assert_eq!(restarts.wait(now), Duration::ZERO, "a long life is forgiven");
    }
}
