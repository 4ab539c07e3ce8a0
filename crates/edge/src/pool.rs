//! Idle upstream connections of one runtime.
//!
//! They belong to a runtime because a socket belongs to its reactor. They are keyed by the
//! instance as well as its address, so a connection is never shared between tenants, not even
//! when an address is given to another workload. An idle one is kept at most 4 s and half of
//! what the peer announced: Node closes at 5 s, and a request that crosses the FIN is lost.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use miosa_types::InstanceId;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::upstream::Link;

/// Idle connections to one address.
const MAX_IDLE: usize = 64;

/// Until an answer has been read, a connection is not idle; one that never gets there is closed.
const SETTLE: Duration = Duration::from_secs(1);

/// How long a connection may have been idle for a request that must not be sent twice.
pub(crate) const YOUNG: Duration = Duration::from_secs(1);

/// Whose connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PoolKey {
    /// A runtime instance; a sandbox is given as the instance of the same number.
    pub(crate) owner: InstanceId,
    /// Its address.
    pub(crate) addr: SocketAddr,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Pool {
    idle: Mutex<HashMap<PoolKey, Slot>>,
    max_idle: Duration,
}

#[derive(Debug)]
struct Slot {
    links: Vec<Link>,
    removed: CancellationToken,
}

impl Pool {
    pub(crate) fn new(max_idle: Duration) -> Self {
        Self { idle: Mutex::default(), max_idle }
    }

    /// A connection that was idle at most `limit`; the one used last comes first.
    pub(crate) fn take(&self, key: &PoolKey, limit: Duration) -> Option<Link> {
        let now = Instant::now();
        let mut idle = self.lock();
        let slot = idle.get_mut(key)?;
        while let Some(link) = slot.links.pop() {
            if self.is_usable(&link, now, limit) {
                return Some(link);
            }
        }
        None
    }

    /// Closes every idle connection to `key`: its peer refused a connection or died.
    pub(crate) fn clear(&self, key: &PoolKey) {
        self.lock().remove(key);
    }

    /// Closes what is too old or whose replica left the table. Called every quarter second.
    pub(crate) fn sweep(&self) {
        let now = Instant::now();
        self.lock().retain(|_, slot| {
            slot.links.retain(|link| self.is_usable(link, now, self.max_idle));
            !slot.links.is_empty() && !slot.removed.is_cancelled()
        });
    }

    fn put(&self, key: PoolKey, removed: &CancellationToken, mut link: Link) {
        if link.is_closed() || removed.is_cancelled() {
            return;
        }
        link.idle_since = Instant::now();
        let mut idle = self.lock();
        let slot =
            idle.entry(key).or_insert_with(|| Slot { links: Vec::new(), removed: removed.clone() });
        if slot.links.len() < MAX_IDLE {
            slot.links.push(link);
        }
    }

    fn is_usable(&self, link: &Link, now: Instant, limit: Duration) -> bool {
        let half = link.keep_alive.map_or(Duration::MAX, |announced| announced / 2);
        let limit = limit.min(self.max_idle).min(half);
        link.is_ready() && !link.is_closed() && now.duration_since(link.idle_since) < limit
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<PoolKey, Slot>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives a connection back when the answer that came over it has been read or dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) pool: Arc<Pool>,
    pub(crate) key: PoolKey,
    pub(crate) removed: CancellationToken,
    pub(crate) link: Option<Link>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(mut link) = self.link.take() else { return };
        if link.is_ready() {
            self.pool.put(self.key, &self.removed, link);
            return;
        }
        if link.is_closed() {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (pool, key, removed) = (self.pool.clone(), self.key, self.removed.clone());
        runtime.spawn(async move {
            if tokio::time::timeout(SETTLE, link.ready()).await == Ok(true) {
                pool.put(key, &removed, link);
            }
        });
    }
}
