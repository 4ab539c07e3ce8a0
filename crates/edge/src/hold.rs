//! Requests that wait for their app.
//!
//! A held request is neither read nor sent, so any method may wait. Every bound of the queue is
//! counted here: per app and for the edge, in requests and in bytes; a request that would break
//! one is refused at once. Many visitors may have one address, so a queue that has room takes
//! them all; one that is half full gives no address more than half, so that others get in. A
//! client that goes away leaves the queue.
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

use crate::{config::Limits, peers::household};

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
    clients: Arc<Mutex<HashMap<IpAddr, usize>>>,
    /// Set while a task releases; see `probe`.
    pub(crate) releasing: AtomicBool,
}

/// Held requests of the whole edge.
#[derive(Debug, Default)]
pub(crate) struct Holds {
    count: Arc<AtomicUsize>,
    bytes: Arc<AtomicUsize>,
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
        (all, limit): (usize, usize),
    ) -> Option<Self> {
        let ip = household(ip);
        let mut map = clients.lock().unwrap_or_else(PoisonError::into_inner);
        let count = map.get(&ip).copied().unwrap_or_default();
        if !is_fair(all, count, limit) {
            return None;
        }
        map.insert(ip, count + 1);
        Some(Self(clients.clone(), ip))
    }
}

/// Whether a client that has `own` of `all` requests in a queue of `limit` may have one more.
const fn is_fair(all: usize, own: usize, limit: usize) -> bool {
    let half = limit.div_ceil(2);
    all <= half || own < half
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
            ClientShare::take(
                &queue.clients,
                who.ip,
                (queue.count.load(Relaxed), limits.held_per_app),
            ),
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
        Limits { held_per_app: 4, ..Limits::default() }
    }

    #[test]
    fn an_address_takes_what_is_free_but_never_the_other_half() {
        let cases = [
            (1, 0, 1_000, true),
            (500, 499, 1_000, true),
            (501, 500, 1_000, false),
            (501, 499, 1_000, true),
            (1_000, 0, 1_000, true),
            (1, 0, 1, true),
        ];
        for (all, own, limit, fair) in cases {
            assert_eq!(is_fair(all, own, limit), fair, "{own} of {all}, at most {limit}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn bounds_refuse_at_once_and_a_client_that_leaves_makes_room() {
        let (holds, queue, limits) = (Holds::default(), Queue::default(), limits());
        let deadline = Instant::now() + Duration::from_secs(1);
        let wait = |last| Box::pin(holds.wait(&queue, who(last), &limits, deadline));
        let (mut first, mut second) = (wait(1), wait(1));
        assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
        assert_eq!(wait(1).now_or_never(), Some(Waited::Full), "half is one client's");
        let (mut third, mut fourth) = (wait(2), wait(3));
        assert!(poll!(&mut third).is_pending() && poll!(&mut fourth).is_pending());
        assert_eq!(wait(4).now_or_never(), Some(Waited::Full), "four per app");
        let other = Queue::default();
        let mut elsewhere = pin!(holds.wait(&other, who(1), &limits, deadline));
        assert!(poll!(&mut elsewhere).is_pending(), "one app takes nothing from another");
        drop(first);
        assert_eq!(holds.count(), 4);
        let mut fifth = wait(4);
        assert!(poll!(&mut fifth).is_pending());
        assert_eq!(queue.release(1), 1, "the one that left is passed over");
        assert_eq!(second.await, Waited::Released);
        assert_eq!(fifth.await, Waited::TimedOut);
        drop((third, fourth));
        assert!(!queue.is_waiting() && queue.clients.lock().unwrap().is_empty());
    }
}
