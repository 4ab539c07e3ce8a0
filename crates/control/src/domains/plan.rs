//! How a domain moves: `pending → verified → active`, `failed`, back to `pending`.
//!
//! Promises: [`plan`] is pure; only proof makes a name held; a held name is lost only after it
//! was found to be someone else's for [`DOUBT`] without a break, never because the DNS did not
//! answer; what is removed stays removed.

use std::time::Duration;

use jiff::Timestamp;
use miosa_store::domains::{Progress, Status};

use crate::back_off::BackOff;

/// Pauses between checks of a name that waits for proof.
const REST: BackOff = BackOff { first: Duration::from_mins(1), longest: Duration::from_hours(1) };
/// How long proof is waited for.
pub const GIVE_UP: Duration = Duration::from_hours(7 * 24);
/// How long a held name may be found to be someone else's.
pub const DOUBT: Duration = Duration::from_hours(3 * 24);
/// And how often at least, because answers may have been missing in between.
const DOUBTS: u32 = 12;
/// Between checks of a held name.
const DAILY: Duration = Duration::from_hours(24);
/// The same while there is doubt, or after the DNS did not answer.
const SOONER: Duration = Duration::from_hours(1);

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The name is the tenant's and points here.
    Proven,
    /// The DNS says otherwise.
    Missing(String),
    /// The DNS did not say.
    Unknown(String),
    /// It would be proved, but somebody else holds it, or it is reserved.
    Taken(String),
    /// Every edge serves route and certificate.
    Served,
    /// The owner asks for a new beginning of a failed one.
    Retried,
    /// The owner or the end of its deployment took it away.
    Removed,
}

/// The next progress after `event` at `now`.
pub fn plan(is: &Progress, event: Event, now: Timestamp) -> Progress {
    let mut next = is.clone();
    match (is.status, event) {
        (Status::Removed, _) => {}
        (_, Event::Removed) => {
            next.status = Status::Removed;
            next.next_check_at = None;
        }
        (Status::Verified, Event::Served) => next.status = Status::Active,
        (_, Event::Served) => {}
        (Status::Failed, Event::Retried) => wait(&mut next, None, now),
        (_, Event::Retried) => {}
        (status, Event::Proven) => {
            if !status.is_held() {
                next.status = Status::Verified;
            }
            next.verified_at = Some(now);
            next.next_check_at = Some(now + DAILY);
            (next.failure, next.doubt_since, next.checks) = (None, None, 0);
        }
        (Status::Verified | Status::Active, Event::Unknown(_)) => {
            next.next_check_at = Some(now + SOONER);
        }
        (Status::Verified | Status::Active, Event::Missing(why) | Event::Taken(why)) => {
            doubt(&mut next, why, now);
        }
        (Status::Failed, Event::Missing(why) | Event::Unknown(why) | Event::Taken(why)) => {
            next.failure = Some(why);
        }
        (Status::Pending, Event::Missing(why) | Event::Unknown(why) | Event::Taken(why)) => {
            again(&mut next, why, now);
        }
    }
    next
}

fn wait(next: &mut Progress, failure: Option<String>, now: Timestamp) {
    next.status = Status::Pending;
    (next.failure, next.doubt_since, next.checks) = (failure, None, 0);
    next.waiting_since = now;
    next.next_check_at = Some(now);
}

/// One more check without proof.
fn again(next: &mut Progress, why: String, now: Timestamp) {
    next.failure = Some(why);
    next.checks = next.checks.saturating_add(1);
    if has_passed(GIVE_UP, next.waiting_since, now) {
        next.status = Status::Failed;
        next.next_check_at = None;
    } else {
        next.next_check_at = Some(now + REST.pause(next.checks));
    }
}

/// A held name that is not the tenant's, or does not point here any more.
fn doubt(next: &mut Progress, why: String, now: Timestamp) {
    let since = *next.doubt_since.get_or_insert(now);
    next.failure = Some(why);
    next.checks = next.checks.saturating_add(1);
    if has_passed(DOUBT, since, now) && next.checks >= DOUBTS {
        next.status = Status::Failed;
        next.next_check_at = None;
    } else {
        next.next_check_at = Some(now + SOONER);
    }
}

fn has_passed(time: Duration, since: Timestamp, now: Timestamp) -> bool {
    now.duration_since(since) >= jiff::SignedDuration::try_from(time).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(hours: u64) -> Timestamp {
        "2026-06-01T12:00:00Z".parse::<Timestamp>().unwrap() + Duration::from_hours(hours)
    }

    fn pending() -> Progress {
        Progress {
            status: Status::Pending,
            failure: None,
            checks: 0,
            waiting_since: at(0),
            doubt_since: None,
            next_check_at: Some(at(0)),
            verified_at: None,
        }
    }

    fn missing() -> Event {
        Event::Missing("no record".into())
    }

    fn unknown() -> Event {
        Event::Unknown("no answer".into())
    }

    #[test]
    fn each_step_leads_where_it_should() {
        use Status::{Active, Failed, Pending, Removed, Verified};
        let taken = || Event::Taken("taken".into());
        for (from, event, to) in [
            (Pending, Event::Proven, Verified),
            (Pending, missing(), Pending),
            (Pending, unknown(), Pending),
            (Pending, taken(), Pending),
            (Pending, Event::Served, Pending),
            (Pending, Event::Retried, Pending),
            (Verified, Event::Served, Active),
            (Verified, missing(), Verified),
            (Verified, Event::Proven, Verified),
            (Active, Event::Proven, Active),
            (Active, missing(), Active),
            (Active, unknown(), Active),
            (Active, Event::Served, Active),
            (Failed, missing(), Failed),
            (Failed, Event::Served, Failed),
            (Failed, Event::Retried, Pending),
            (Failed, Event::Proven, Verified),
            (Active, Event::Removed, Removed),
            (Removed, Event::Proven, Removed),
            (Removed, Event::Retried, Removed),
        ] {
            let next = plan(&Progress { status: from, ..pending() }, event.clone(), at(1));
            assert_eq!(next.status, to, "{from:?} {event:?}");
        }
    }

    #[test]
    fn checks_come_less_and_less_often_and_end() {
        let (mut is, mut now, mut count) = (pending(), at(0), 0);
        while let Some(next) = is.next_check_at {
            assert!(next >= now && next <= now + Duration::from_hours(1), "{is:?}");
            now = next;
            is = plan(&is, if count % 2 == 0 { missing() } else { unknown() }, now);
            count += 1;
        }
        assert_eq!(is.status, Status::Failed);
        assert!((160..200).contains(&count), "{count} checks in seven days");
        assert!(now <= at(7 * 24 + 1), "{now}");
        let again = plan(&is, Event::Retried, now);
        assert_eq!((again.next_check_at, again.waiting_since, again.checks), (Some(now), now, 0));
    }

    #[test]
    fn a_held_name_is_lost_after_days_of_doubt_without_a_break() {
        let active = Progress { status: Status::Active, ..pending() };
        let mut is = active.clone();
        assert_eq!(plan(&plan(&is, missing(), at(0)), missing(), at(999)).status, Status::Active);
        for hours in 1..=72 {
            is = plan(&is, missing(), at(hours));
            assert_eq!(is.status, Status::Active, "{hours} h");
        }
        let found = plan(&is, Event::Proven, at(72));
        assert_eq!((found.doubt_since, &found.failure), (None, &None));
        assert_eq!(plan(&is, missing(), at(73)).status, Status::Failed);
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(Event::Proven),
            Just(missing()),
            Just(unknown()),
            Just(Event::Taken("taken".into())),
            Just(Event::Served),
            Just(Event::Retried),
        ]
    }

    proptest! {
        #[test]
        fn only_proof_makes_a_name_held(events in prop::collection::vec((event(), 0..100_u64), 0..60)) {
            let (mut is, mut hours, mut doubt) = (pending(), 0, None);
            let mut doubts = 0;
            for (event, later) in events {
                hours += later;
                let next = plan(&is, event.clone(), at(hours));
                if next.status.is_held() && !is.status.is_held() {
                    prop_assert_eq!(&event, &Event::Proven);
                }
                match event {
                    Event::Missing(_) | Event::Taken(_) if is.status.is_held() => {
                        doubt.get_or_insert(hours);
                        doubts += 1;
                    }
                    Event::Proven => (doubt, doubts) = (None, 0),
                    _ => {}
                }
                if is.status.is_held() && !next.status.is_held() {
                    let is_long = doubt.is_some_and(|since| hours - since >= 72);
                    prop_assert!(is_long && doubts >= 12);
                    (doubt, doubts) = (None, 0);
                }
                // Whatever may still move by itself has a time to be looked at.
                let moves = next.status != Status::Failed;
                prop_assert_eq!(next.next_check_at.is_some(), moves);
                is = next;
            }
        }

        #[test]
        fn silence_of_the_dns_takes_nothing_away(steps in prop::collection::vec(1..500_u64, 1..60)) {
            let mut is = Progress { status: Status::Active, ..pending() };
            let mut hours = 0;
            for later in steps {
                hours += later;
                is = plan(&is, unknown(), at(hours));
                prop_assert_eq!(is.status, Status::Active);
            }
        }
    }
}
