//! Requests to an app with processes: balance, hold, retry (rules: docs/flows, edge).
//!
//! It promises that a request is never executed twice unless it is safe to, that one which was
//! never sent is never lost while the app can come back within its hold limit, and that a dying
//! app does not get its load multiplied.

use std::{pin::pin, sync::Arc, task::Poll};

use futures_util::poll;
use http::{Response, StatusCode};
use miosa_types::{InstanceId, link::Availability};
use prometheus_client::metrics::gauge::Gauge;
use tokio::time::Instant;

use crate::{
    attempt::{Failure, Peer, attempt},
    balance::{App, Replica, Verdict},
    body::Body,
    hold::Waited,
    pages::Page,
    pool::PoolKey,
    probe,
    table::Route,
    tunnel,
    visit::Visit,
};

/// Replicas that may die under one request: then it gets an answer, never a third victim.
const MAX_DEATHS: usize = 2;

/// How often one request is sent again after it was written.
const MAX_EXTRA: u32 = 2;

/// What one request has been through.
struct Course<'a> {
    /// By which the request came.
    route: &'a Route,
    /// Until when it may be held.
    deadline: Instant,
    /// Replicas that it was written to and that died.
    died: Vec<InstanceId>,
    /// How often it was written and got no whole answer.
    broken: u32,
    /// Let go by the queue: it is its turn.
    is_released: bool,
    /// A pooled connection failed it: it gets a new one.
    fresh: bool,
}

enum Step {
    Done(Response<Body>),
    Again,
}

/// Shows one request more that waits.
struct Holding<'a>(&'a Gauge);

impl<'a> Holding<'a> {
    fn new(gauge: &'a Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Holding<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Answers a request; `None`: the app has left the host while this waited, look who has it.
pub(crate) async fn serve(
    visit: &mut Visit,
    route: &Route,
    app: &Arc<App>,
) -> Option<Response<Body>> {
    app.budget.earn();
    let limits = &visit.shared().config.limits;
    let mut hold = app.spec.load().hold;
    if visit.is_navigation() {
        hold = hold.min(limits.navigation_hold);
    }
    let mut course = Course {
        route,
        deadline: visit.arrived + hold,
        died: Vec::new(),
        broken: 0,
        is_released: false,
        fresh: false,
    };
    loop {
        if app.is_closed() || route.is_replaced() {
            return None;
        }
        if let Step::Done(response) = step(visit, app, &mut course).await {
            return Some(response);
        }
    }
}

async fn step(visit: &mut Visit, app: &Arc<App>, course: &mut Course<'_>) -> Step {
    let spec = app.spec.load_full();
    let left = course.deadline.saturating_duration_since(Instant::now());
    match spec.verdict(visit.shared().config.env.now(), left) {
        Verdict::Refuse => {
            let page = match &spec.availability {
                Availability::Stopped => Page::Stopped,
                _ => Page::Failed,
            };
            return Step::Done(visit.page(page, Some(spec.owner)));
        }
        Verdict::Wake => visit.shared().reports.wake(app.id),
        Verdict::Serve => {}
    }
    let is_my_turn = course.is_released || !app.queue.is_waiting();
    let replica = if is_my_turn { app.pick(&course.died) } else { None };
    let Some(replica) = replica else { return hold(visit, app, course).await };
    if visit.is_websocket() {
        return upgrade(visit, app, course, &replica).await;
    }
    let _under_way = replica.enter(&visit.shared().reports.in_flight);
    let peer = Peer {
        key: PoolKey { owner: replica.instance, addr: replica.addr },
        removed: &replica.removed,
        fresh: course.fresh,
    };
    let late = || visit.shared().reports.suspect(&replica);
    match attempt(visit, peer, late).await {
        Ok(response) => {
            replica.answered();
            let under_way = replica.enter(&visit.shared().reports.in_flight);
            Step::Done(response.map(|body| body.with_guard(under_way)))
        }
        Err(failure) => failed(visit, app, course, (&replica, failure)).await,
    }
}

/// Decides what a failure means for the replica and for the request.
async fn failed(
    visit: &Visit,
    app: &Arc<App>,
    course: &mut Course<'_>,
    (replica, failure): (&Arc<Replica>, Failure),
) -> Step {
    tracing::debug!(instance = %replica.instance, %failure, "attempt failed");
    let key = PoolKey { owner: replica.instance, addr: replica.addr };
    let bad_gateway = || Step::Done(visit.page(Page::BadGateway, Some(app.spec.load().owner)));
    match failure {
        Failure::Connect(_) | Failure::Unsent { fresh: true } => {
            visit.worker.pool.clear(&key);
            probe::eject(visit.shared(), app, replica);
            Step::Again
        }
        Failure::Unsent { fresh: false } => {
            visit.worker.pool.clear(&key);
            course.fresh = true;
            Step::Again
        }
        Failure::Written => {
            visit.worker.pool.clear(&key);
            course.fresh = true;
            course.broken += 1;
            let is_known = course.died.contains(&replica.instance);
            if !is_known {
                course.died.push(replica.instance);
            }
            let may_repeat = visit.is_safe() && visit.can_repeat_body();
            let is_spent = course.died.len() >= MAX_DEATHS || course.broken > MAX_EXTRA;
            if !may_repeat || is_spent {
                return bad_gateway();
            }
            // Everything that was under way on a dead replica comes here at once. It goes to
            // another one or waits, so nothing is multiplied and nothing is charged.
            let is_dead = probe::is_dead(visit.shared(), app, replica).await;
            if !is_dead && is_known {
                // It took a fresh connection and broke that as well: a process that is dying
                // closes its listening socket last. One victim all the same, but no choice now.
                probe::eject(visit.shared(), app, replica);
            }
            if !is_dead && !app.budget.spend() {
                return bad_gateway();
            }
            visit.shared().metrics.retries.inc();
            Step::Again
        }
        Failure::Unasked => bad_gateway(),
        Failure::TooSlow => {
            Step::Done(visit.page(Page::GatewayTimeout, Some(app.spec.load().owner)))
        }
        Failure::Client => {
            Step::Done(visit.text(StatusCode::BAD_REQUEST, "The request body broke off"))
        }
    }
}

async fn upgrade(
    visit: &mut Visit,
    app: &Arc<App>,
    course: &mut Course<'_>,
    replica: &Arc<Replica>,
) -> Step {
    let under_way = replica.enter(&visit.shared().reports.in_flight);
    let end = replica.removed.clone().cancelled_owned();
    match tunnel::open(visit, replica.addr, end, under_way).await {
        Ok(response) => Step::Done(response),
        Err(failure) => failed(visit, app, course, (replica, failure)).await,
    }
}

async fn hold(visit: &Visit, app: &Arc<App>, course: &mut Course<'_>) -> Step {
    let shared = visit.shared();
    course.is_released = false;
    shared.metrics.held.inc();
    let _holding = Holding::new(&shared.metrics.holding);
    let waiting =
        shared.holds.wait(&app.queue, visit.who(), &shared.config.limits, course.deadline);
    let mut waiting = pin!(waiting);
    let waited = match poll!(&mut waiting) {
        Poll::Ready(waited) => waited,
        Poll::Pending => {
            // A replica may have come, or the app may have been stopped, between the look at
            // the table and the place in the queue.
            let left = course.deadline.saturating_duration_since(Instant::now());
            let verdict = app.spec.load().verdict(shared.config.env.now(), left);
            let has_left = app.is_closed() || course.route.is_replaced();
            if has_left || verdict == Verdict::Refuse {
                return Step::Again;
            }
            if app.pick(&[]).is_some() {
                probe::release(shared, app);
            }
            waiting.await
        }
    };
    match waited {
        Waited::Released => {
            course.is_released = true;
            Step::Again
        }
        Waited::TimedOut => Step::Done(visit.page(Page::Starting, Some(app.spec.load().owner))),
        Waited::Full => {
            shared.metrics.hold_refused.inc();
            Step::Done(visit.page(Page::Overloaded, Some(app.spec.load().owner)))
        }
    }
}
