//! Requests that wait for their app.
//!
//! A held request is neither read nor sent, so any method may wait. Every bound of the queue is
//! counted here: per app, per client address and for the edge, in requests and in bytes; a
//! request that would break one is refused at once. A client that goes away leaves the queue.
//! Release is first come, first served, and ramped up: a fresh app's accept queue may hold 5.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
};

use tokio::{sync::oneshot, time::Instant};

use crate::config::Limits;

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waited {
    /// Look again.
    Released,
    /// The limit has passed.
    TimedOut,
    /// A bound was reached; it never waited.
    Full,
}

/// Held requests of one app.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    waiting: Mutex<VecDeque<oneshot::Sender<()>>>,
    count: Arc<AtomicUsize>,
    bytes: Arc<AtomicUsize>,
    /// Set while a task releases; see `probe`.
    pub(crate) releasing: AtomicBool,
}

/// Held requests of the whole edge.
#[derive(Debug, Default)]
pub(crate) struct Holds {
    count: Arc<AtomicUsize>,
    bytes: Arc<AtomicUsize>,
    clients: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// Takes its share of a counter back when it is dropped.
struct Share(Arc<AtomicUsize>, usize);

impl Share {
    fn take(counter: &Arc<AtomicUsize>, amount: usize, limit: usize) -> Option<Self> {
        if counter.fetch_add(amount, Relaxed) + amount > limit {
            counter.fetch_sub(amount, Relaxed);
            return None;
        }
        Some(Self(counter.clone(), amount))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Relaxed);
    }
}

struct ClientShare(Arc<Mutex<HashMap<IpAddr, usize>>>, IpAddr);

impl ClientShare {
    fn take(
        clients: &Arc<Mutex<HashMap<IpAddr, usize>>>,
        ip: IpAddr,
        limit: usize,
    ) -> Option<Self> {
        let mut map = clients.lock().unwrap_or_else(PoisonError::into_inner);
        let count = map.entry(ip).or_default();
        if *count >= limit {
            return None;
        }
        *count += 1;
        Some(Self(clients.clone(), ip))
    }
}

impl Drop for ClientShare {
    fn drop(&mut self) {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = map.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                map.remove(&self.1);
            }
        }
    }
}

/// Who waits: what its bounds are counted by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Who {
    pub(crate) ip: IpAddr,
    /// Size of the head in bytes, about.
    pub(crate) bytes: usize,
}

impl Holds {
    /// Waits in `queue` until it is released or `deadline` has passed.
    pub(crate) async fn wait(
        &self,
        queue: &Queue,
        who: Who,
        limits: &Limits,
        deadline: Instant,
    ) -> Waited {
        let shares = (
            Share::take(&queue.count, 1, limits.held_per_app),
            Share::take(&queue.bytes, who.bytes, limits.held_bytes_per_app),
            Share::take(&self.count, 1, limits.held),
            Share::take(&self.bytes, who.bytes, limits.held_bytes),
            ClientShare::take(&self.clients, who.ip, limits.held_per_client),
        );
        let (Some(_), Some(_), Some(_), Some(_), Some(_)) = &shares else {
            return Waited::Full;
        };
        let released = queue.push();
        match tokio::time::timeout_at(deadline, released).await {
            // A dropped sender means that the queue was cleared: look again as well.
            Ok(_) => Waited::Released,
            Err(_) => Waited::TimedOut,
        }
    }

    /// How many wait.
    #[cfg(test)]
    fn count(&self) -> usize {
        self.count.load(Relaxed)
    }
}

impl Queue {
    fn push(&self) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() > 2 * self.count.load(Relaxed) + 16 {
            waiting.retain(|sender| !sender.is_closed());
        }
        waiting.push_back(sender);
        receiver
    }

    /// Whether anybody waits.
    pub(crate) fn is_waiting(&self) -> bool {
        self.count.load(Relaxed) > 0
    }

    /// Lets the first `most` go; how many went.
    pub(crate) fn release(&self, most: usize) -> usize {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut gone = 0;
        while gone < most
            && let Some(sender) = waiting.pop_front()
        {
            gone += usize::from(sender.send(()).is_ok());
        }
        gone
    }

    /// Lets everyone look again.
    pub(crate) fn release_all(&self) {
        self.release(usize::MAX);
    }
}

#[cfg(test)]
mod tests {
    use std::{pin::pin, time::Duration};

    use futures_util::{FutureExt, poll};

    use super::*;

    fn who(last: u8) -> Who {
        Who { ip: IpAddr::from([10, 0, 0, last]), bytes: 100 }
    }

    fn limits() -> Limits {
        Limits { held_per_app: 2, held_per_client: 1, ..Limits::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn bounds_refuse_at_once_and_a_client_that_leaves_makes_room() {
        let (holds, queue, limits) = (Holds::default(), Queue::default(), limits());
        let deadline = Instant::now() + Duration::from_secs(1);
        let mut first = Box::pin(holds.wait(&queue, who(1), &limits, deadline));
        assert!(poll!(&mut first).is_pending());
        let same = holds.wait(&queue, who(1), &limits, deadline).now_or_never();
        assert_eq!(same, Some(Waited::Full), "one per client");
        let mut second = pin!(holds.wait(&queue, who(2), &limits, deadline));
        assert!(poll!(&mut second).is_pending());
        let third = holds.wait(&queue, who(3), &limits, deadline).now_or_never();
        assert_eq!(third, Some(Waited::Full), "two per app");
        drop(first);
        assert_eq!(holds.count(), 1);
        let mut third = pin!(holds.wait(&queue, who(3), &limits, deadline));
        assert!(poll!(&mut third).is_pending());
        assert_eq!(queue.release(1), 1, "the one that left is passed over");
        assert_eq!(second.await, Waited::Released);
        assert_eq!(third.await, Waited::TimedOut);
        assert!(!queue.is_waiting());
    }
}
