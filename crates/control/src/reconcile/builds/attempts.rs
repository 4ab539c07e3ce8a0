//! What follows from the end of an attempt at a build. Pure.

use std::time::Duration;

use jiff::Timestamp;
use miosa_types::Env;

use crate::back_off::BackOff;

/// Attempts that end for reasons that are not the app's.
pub const ATTEMPTS: u32 = 6;
/// Before the next of them.
pub const REST: BackOff =
    BackOff { first: Duration::from_secs(2), longest: Duration::from_mins(1) };
/// How long a build may wait for room, which is no attempt at it.
pub const ROOM_WAIT: Duration = Duration::from_hours(1);
/// Before it is looked for again.
const ROOM_REST: BackOff =
    BackOff { first: Duration::from_secs(20), longest: Duration::from_secs(20) };
/// A version whose attempts so far ended for reasons that are not the app's.
#[derive(Clone, Debug, Default)]
pub(super) struct Interrupted {
    /// Of each attempt.
    pub(super) reasons: Vec<String>,
    /// Since when there is no room for it.
    pub(super) short_since: Option<Timestamp>,
    /// When the next may begin.
    pub(super) until: Timestamp,
}

impl Interrupted {
    /// Takes in one more; how long to wait for the next attempt.
    pub(super) fn again(&mut self, reason: String, env: &Env) -> Duration {
        self.reasons.push(reason);
        self.short_since = None;
        let pause = REST.spread(self.attempts(), env);
        self.until = env.now() + pause;
        pause
    }

    /// How long to wait before room is looked for again; `None`: it waited long enough.
    fn wait_for_room(&mut self, env: &Env) -> Option<Duration> {
        let now = env.now();
        let since = *self.short_since.get_or_insert(now);
        if now.duration_since(since).unsigned_abs() >= ROOM_WAIT {
            return None;
        }
        let pause = ROOM_REST.spread(1, env);
        self.until = now + pause;
        Some(pause)
    }

    pub(super) fn attempts(&self) -> u32 {
        u32::try_from(self.reasons.len()).unwrap_or(u32::MAX)
    }
}

/// How one attempt ended.
pub(super) enum Outcome {
    Built(miosa_publish::Built),
    /// The app's fault.
    Failed(String),
    /// Ours; worth another attempt.
    Interrupted(String),
    /// While there is no room for sandboxes. Why the attempt ended, which may be true all the same.
    NoRoom(String),
}

/// What follows from the end of an attempt.
pub(super) enum Verdict {
    /// Another, after a pause. What is told, and what follows it.
    Again { why: String, next: String, pause: Duration },
    /// None.
    Over(Outcome),
}

/// Takes in how an attempt ended.
pub(super) fn verdict(outcome: Outcome, earlier: &mut Interrupted, env: &Env) -> Verdict {
    let next = earlier.attempts() + 2;
    match outcome {
        Outcome::Interrupted(why) if next <= ATTEMPTS => {
            let pause = earlier.again(why.clone(), env);
            let seconds = pause.as_secs_f32().ceil();
            let next = format!("Attempt {next} of {ATTEMPTS} begins in {seconds} s.");
            Verdict::Again { why, next, pause }
        }
        Outcome::Interrupted(why) => {
            Verdict::Over(Outcome::Failed(format!("{why} The build was tried {ATTEMPTS} times.")))
        }
        Outcome::NoRoom(why) => match earlier.wait_for_room(env) {
            Some(pause) => Verdict::Again {
                why: "The platform has no room for the build now.".to_owned(),
                next: "It begins when there is room.".to_owned(),
                pause,
            },
            None => Verdict::Over(Outcome::Failed(format!(
                "The platform had no room for the build for an hour. {why}"
            ))),
        },
        outcome => Verdict::Over(outcome),
    }
}
