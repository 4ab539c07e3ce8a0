//! Keeps every sandbox what its row says: begins again what did not come up, notes what ended,
//! ends what is out of time, removes what nobody wants.
//!
//! [`plan`] decides and does no I/O. While nothing is known of the provider, nothing is concluded
//! from it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use miosa_provider::{Observed, Phase};
use miosa_store::sandboxes as rows;
use miosa_types::WorkloadId;
use tokio::sync::Notify;

use crate::{
    Control, Reconciler, Report,
    driver::StepError,
    sandboxes::{
        START_DEADLINE, Sandbox, State, bring_up, expire, key, mark_destroyed, mark_ended,
    },
};

/// Rows read at once.
const PAGE: u32 = 500;
/// Sandboxes that this reconciler brings up at once; creates are not counted.
const AT_ONCE: usize = 16;

/// What is next for one sandbox. Each may be repeated at any time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start or hand over, then greet.
    BringUp,
    /// Note that it ended.
    End {
        /// Why.
        reason: String,
    },
    /// Its time is over.
    Expire,
    /// Remove its workload.
    Delete,
    /// Note that nothing is left.
    MarkDestroyed,
}

/// What is seen of a sandbox's workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Nothing is known.
    Unknown,
    /// It is not there.
    Absent,
    /// It is there.
    There(Phase),
}

/// Names the next action.
pub fn plan(row: &Sandbox, seen: &Seen, now: Timestamp) -> Option<Action> {
    let is_there = matches!(seen, Seen::There(_));
    let end = |reason: String| Some(Action::End { reason });
    match row.state() {
        State::Destroyed => None,
        State::Destroying if is_there => Some(Action::Delete),
        State::Destroying => (*seen == Seen::Absent).then_some(Action::MarkDestroyed),
        _ if row.expires_at.is_some_and(|at| at <= now) => Some(Action::Expire),
        State::Error => is_there.then_some(Action::Delete),
        State::Running => match seen {
            Seen::There(Phase::Exited { code }) => end(format!("it ended with code {code}")),
            Seen::Absent => end("it is not there any more".to_owned()),
            Seen::Unknown | Seen::There(_) => None,
        },
        State::Creating => match seen {
            Seen::Unknown => None,
            Seen::There(Phase::Exited { code }) => {
                end(format!("it ended with code {code} before it took commands"))
            }
            Seen::Absent | Seen::There(_) => {
                let age = now.duration_since(row.created_at).unsigned_abs();
                if age < START_DEADLINE {
                    return Some(Action::BringUp);
                }
                end(format!("it took no commands within {} s", START_DEADLINE.as_secs()))
            }
        },
    }
}

/// The reconciler.
#[derive(Debug)]
pub struct Sandboxes(pub Arc<Control>);

#[async_trait]
impl Reconciler for Sandboxes {
    fn name(&self) -> &'static str {
        "sandboxes"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(2)
    }

    fn wake(&self) -> Arc<Notify> {
        self.0.wakes.sandboxes.clone()
    }

    async fn step(&self) -> Result<Report, StepError> {
        let control = &self.0;
        let mut report = Report::default();
        let mut after = None;
        loop {
            // Observed before the rows are read: a row that is newer than what was seen is young,
            // and a young row is only ever brought up.
            let seen = observed(control);
            let mut db = control.store.conn().await?;
            let page = rows::unfinished(&mut db, after, PAGE).await?;
            drop(db);
            let Some(last) = page.last() else { return Ok(report) };
            after = Some(last.id);
            for row in &page {
                report.looked_at += 1;
                let Some(action) = plan(row, &look_up(seen.as_ref(), row), control.env.now())
                else {
                    continue;
                };
                match self.act(row, action).await {
                    Ok(true) => report.acted += 1,
                    Ok(false) => {}
                    Err(error) => {
                        report.failed += 1;
                        tracing::warn!(sandbox = %row.id, %error, "cannot act on a sandbox yet");
                    }
                }
            }
        }
    }
}

impl Sandboxes {
    /// Whether it did something.
    async fn act(&self, row: &Sandbox, action: Action) -> Result<bool, StepError> {
        let control = &self.0;
        let is_in_hand = control.in_hand.contains(row.id);
        match action {
            // The task that has it in hand will see it, or it comes again after that task.
            Action::BringUp | Action::MarkDestroyed if is_in_hand => return Ok(false),
            Action::BringUp if control.in_hand.count() >= AT_ONCE => return Ok(false),
            Action::BringUp => {
                let Some(guard) = control.in_hand.enter(row.id) else { return Ok(false) };
                tokio::spawn(bring_up(control.clone(), row.clone(), guard));
            }
            Action::End { reason } => {
                mark_ended(control, row, &reason).await?;
            }
            Action::Expire => {
                expire(control, row).await?;
                control.wakes.routes.notify_one();
                control.wakes.sandboxes.notify_one();
            }
            Action::Delete => control.provider.delete(key(row), 0).await?,
            Action::MarkDestroyed => {
                mark_destroyed(control, row).await?;
            }
        }
        Ok(true)
    }
}

fn observed(control: &Control) -> Option<BTreeMap<WorkloadId, Observed>> {
    let all = control.observed.replicas()?;
    Some(all.into_iter().map(|o| (o.key.workload, o)).collect())
}

fn look_up(seen: Option<&BTreeMap<WorkloadId, Observed>>, row: &Sandbox) -> Seen {
    let Some(seen) = seen else { return Seen::Unknown };
    seen.get(&row.workload).map_or(Seen::Absent, |o| Seen::There(o.phase.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandboxes::bench::{bench, bench_row};

    /// Every state with everything that can be seen of it.
    #[tokio::test]
    async fn each_situation_has_its_action() {
        let bench = bench(&[]).await;
        let now = bench.control.env.now();
        let addr = ([10, 0, 0, 1], 49_983).into();
        let ready = Seen::There(Phase::Ready { addr });
        let pending = Seen::There(Phase::Pending { why: String::new() });
        let exited = Seen::There(Phase::Exited { code: 9 });
        let lost = Seen::There(Phase::Lost);
        let creating = bench_row(&bench);
        let running = Sandbox { ready_at: Some(now), ..creating.clone() };
        let error = Sandbox { ended_at: Some(now), ..running.clone() };
        let unwanted = Sandbox { desired: rows::Desired::Destroyed, ..running.clone() };
        let destroyed = Sandbox { destroyed_at: Some(now), ..unwanted.clone() };
        let late = now + START_DEADLINE;
        for (row, seen, at, expected) in [
            (&creating, &Seen::Unknown, now, ""),
            (&creating, &Seen::Absent, now, "BringUp"),
            (&creating, &pending, now, "BringUp"),
            (&creating, &ready, now, "BringUp"),
            (&creating, &exited, now, "End"),
            (&creating, &Seen::Unknown, late, ""),
            (&creating, &Seen::Absent, late, "End"),
            (&creating, &pending, late, "End"),
            (&running, &Seen::Unknown, late, ""),
            (&running, &ready, late, ""),
            (&running, &lost, late, ""),
            (&running, &Seen::Absent, now, "End"),
            (&running, &exited, now, "End"),
            (&running, &Seen::Unknown, now + Duration::from_hours(1), "Expire"),
            (&error, &Seen::Unknown, now, ""),
            (&error, &Seen::Absent, now, ""),
            (&error, &exited, now, "Delete"),
            (&unwanted, &Seen::Unknown, now, ""),
            (&unwanted, &ready, now, "Delete"),
            (&unwanted, &Seen::Absent, now, "MarkDestroyed"),
            (&destroyed, &ready, now, ""),
        ] {
            let action = plan(row, seen, at).map_or_else(String::new, |a| format!("{a:?}"));
            let name = action.split(' ').next().unwrap_or_default();
            assert_eq!(name, expected, "{} and {seen:?}", row.state().as_str());
        }
    }
}
