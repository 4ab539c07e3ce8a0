//! Finding out whether a replica accepts connections, and letting held requests go.
//!
//! One connecting loop per ejected replica and one releasing task per app, whatever the number
//! of held requests: waiting costs the app nothing.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{net::TcpStream, time::Instant};

use crate::{
    balance::{App, Replica},
    shared::Shared,
};

/// Pause between two connects to an ejected replica.
const EVERY: Duration = Duration::from_millis(20);
/// After this many attempts the pause grows: the app is not just restarting.
const EAGER: u32 = 500;
const LAZY: Duration = Duration::from_millis(250);

/// How long a new connection must stand before a replica whose connection broke counts as alive:
/// the kernel closes the listening socket of a killed process together with its connections, but
/// not at the same moment.
const STANDS: Duration = Duration::from_millis(30);
/// The longest that a request waits to learn whether its replica is dead: two checks, the second
/// for those whose connection broke after the first began.
const CHECKS: Duration = Duration::from_secs(3);

/// First batch of released requests, and the pause before each next one, twice as large.
const RAMP: usize = 32;
const RAMP_EVERY: Duration = Duration::from_millis(50);

/// Ejects a replica, tells control, and connects until it is back or gone.
pub(crate) fn eject(shared: &Arc<Shared>, app: &Arc<App>, replica: &Arc<Replica>) {
    if !replica.eject() {
        return;
    }
    tracing::info!(instance = %replica.instance, "replica ejected");
    shared.metrics.ejections.inc();
    shared.reports.suspect(replica);
    let (shared, app, replica) = (shared.clone(), app.clone(), replica.clone());
    shared.background.clone().spawn(async move {
        let removed = replica.removed.clone();
        if removed.run_until_cancelled(reconnect(&shared, &replica)).await.is_some() {
            replica.restore();
            tracing::info!(instance = %replica.instance, "replica is back");
            release(&shared, &app);
        }
    });
}

/// Whether a replica on which a connection just broke is dead; if it is, it is ejected. One check
/// for all who ask at once. Unknown is not dead.
pub(crate) async fn is_dead(shared: &Arc<Shared>, app: &Arc<App>, replica: &Arc<Replica>) -> bool {
    let broke = Instant::now();
    let checking = async {
        let mut checked = replica.checked.lock().await;
        if checked.is_some_and(|began| began >= broke) {
            return replica.is_gone();
        }
        let began = Instant::now();
        let removed = replica.removed.clone();
        let stands = async { replica.is_gone() || stands(shared, replica).await };
        match removed.run_until_cancelled(stands).await {
            _ if replica.is_gone() => return true,
            Some(false) => eject(shared, app, replica),
            _ => *checked = Some(began),
        }
        replica.is_gone()
    };
    tokio::time::timeout(CHECKS, checking).await.unwrap_or_else(|_| replica.is_gone())
}

/// Whether it takes a connection and keeps it. A connect that times out is tried again: a full
/// accept queue looks like that.
async fn stands(shared: &Shared, replica: &Replica) -> bool {
    for _ in 0..2 {
        let connect = TcpStream::connect(replica.addr);
        match tokio::time::timeout(shared.config.limits.connect, connect).await {
            Ok(Ok(stream)) => {
                let mut byte = [0];
                let heard = tokio::time::timeout(STANDS, stream.peek(&mut byte)).await;
                return matches!(heard, Err(_) | Ok(Ok(1)));
            }
            Ok(Err(_)) => return false,
            Err(_) => {}
        }
    }
    false
}

async fn reconnect(shared: &Shared, replica: &Replica) {
    let mut attempts = 0_u32;
    while !connects(shared, replica).await {
        attempts = attempts.saturating_add(1);
        tokio::time::sleep(if attempts < EAGER { EVERY } else { LAZY }).await;
    }
}

async fn connects(shared: &Shared, replica: &Replica) -> bool {
    let connect = TcpStream::connect(replica.addr);
    matches!(tokio::time::timeout(shared.config.limits.connect, connect).await, Ok(Ok(_)))
}

/// Lets held requests go if a replica accepts connections. Cheap if there are none.
pub(crate) fn release(shared: &Arc<Shared>, app: &Arc<App>) {
    if !app.queue.is_waiting() || app.queue.releasing.swap(true, Ordering::SeqCst) {
        return;
    }
    let (shared, app) = (shared.clone(), app.clone());
    shared.background.clone().spawn(async move {
        loop {
            ramp(&shared, &app).await;
            app.queue.releasing.store(false, Ordering::SeqCst);
            // Somebody may have come, or a replica may have come back, just before the flag fell.
            let again = app.queue.is_waiting() && app.pick(&[]).is_some();
            if !again || app.queue.releasing.swap(true, Ordering::SeqCst) {
                return;
            }
            // What was released has not yet left the count: do not spin.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
}

async fn ramp(shared: &Arc<Shared>, app: &Arc<App>) {
    let Some(replica) = app.pick(&[]) else { return };
    // One connection probes before the crowd comes.
    if !connects(shared, &replica).await {
        eject(shared, app, &replica);
        return;
    }
    let mut batch = RAMP;
    while app.pick(&[]).is_some() && app.queue.release(batch) > 0 {
        batch = batch.saturating_mul(2);
        tokio::time::sleep(RAMP_EVERY).await;
    }
}
