//! Client connections: how many there may be, and who makes room when there are too many.
//!
//! Promises: one address never has more than its share, whatever it does on its connections; a
//! new connection is let in as long as there is one, of the same address or of all, on which
//! nothing is under way, and the one that has been idle longest goes. Proxies that are trusted
//! have no share of their own, for they are many visitors. Whoever is at a bound costs little:
//! room is made for several at once, and not looked for again and again.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    client_io::ConnState,
    metrics::Metrics,
    peers::{self, Network},
};

/// One address has at most this part of all connections.
const SHARE: usize = 4;

/// This part of what is full is cleared at once, if that much is idle.
const CLEARED: usize = 64;

/// After no room was found, how long nobody looks for it.
const BARREN: Duration = Duration::from_millis(100);

/// Until a connection that must go is looked at again, if a request came just before.
const AGAIN: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub(crate) struct Crowd {
    seats: Mutex<Seats>,
    limit: usize,
    trusted: Vec<Network>,
    metrics: Arc<Metrics>,
}

/// A connection's place, until it is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    crowd: Arc<Crowd>,
    client: Client,
    number: u64,
    /// Cancelled when it must make room.
    evicted: CancellationToken,
}

/// An address, or all trusted proxies together.
type Client = Option<IpAddr>;

#[derive(Debug, Default)]
struct Seats {
    clients: HashMap<Client, Taken>,
    count: usize,
    next: u64,
    barren: Option<Instant>,
}

/// Of one client.
#[derive(Debug, Default)]
struct Taken {
    seats: HashMap<u64, (Arc<ConnState>, CancellationToken)>,
    barren: Option<Instant>,
}

impl Crowd {
    pub(crate) fn new(limit: usize, trusted: &[Network], metrics: &Arc<Metrics>) -> Self {
        let (trusted, metrics) = (trusted.to_vec(), metrics.clone());
        Self { seats: Mutex::default(), limit, trusted, metrics }
    }

    /// A place for a connection of `peer`; `None`: it is refused.
    pub(crate) fn enter(self: &Arc<Self>, peer: IpAddr, state: &Arc<ConnState>) -> Option<Seat> {
        let is_trusted = peers::is_trusted(&self.trusted, peer);
        let client = (!is_trusted).then(|| peers::household(peer));
        let mut seats = self.lock();
        let share = if is_trusted { self.limit } else { self.limit.div_ceil(SHARE) };
        let evicted = seats.make_room(client, (share, self.limit));
        self.metrics.connections_evicted.inc_by(evicted as u64);
        let own = seats.clients.get(&client).map_or(0, |taken| taken.seats.len());
        if own >= share || seats.count >= self.limit {
            self.metrics.connections_refused.inc();
            return None;
        }
        let number = seats.next;
        seats.next += 1;
        seats.count += 1;
        let evicted = CancellationToken::new();
        let taken = seats.clients.entry(client).or_default();
        taken.seats.insert(number, (state.clone(), evicted.clone()));
        Some(Seat { crowd: self.clone(), client, number, evicted })
    }

    fn lock(&self) -> MutexGuard<'_, Seats> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seats {
    /// Evicts idle connections if `client` has its share, or all have theirs; how many.
    fn make_room(&mut self, client: Client, (share, limit): (usize, usize)) -> usize {
        let now = Instant::now();
        let mut evicted = 0;
        if let Some(taken) = self.clients.get_mut(&client)
            && taken.seats.len() >= share
            && taken.barren.is_none_or(|until| until <= now)
        {
            let idle = taken.idle().map(|(since, number)| (since, (client, number)));
            let gone = oldest(idle.collect(), most(share));
            taken.barren = gone.is_empty().then_some(now + BARREN);
            evicted += self.evict(&gone);
        }
        if self.count >= limit && self.barren.is_none_or(|until| until <= now) {
            let idle = self.clients.iter().flat_map(|(client, taken)| {
                taken.idle().map(|(since, number)| (since, (*client, number)))
            });
            let gone = oldest(idle.collect(), most(limit));
            self.barren = gone.is_empty().then_some(now + BARREN);
            evicted += self.evict(&gone);
        }
        evicted
    }

    fn evict(&mut self, gone: &[(Client, u64)]) -> usize {
        for (client, number) in gone {
            if let Some(evicted) = self.leave(*client, *number) {
                evicted.cancel();
            }
        }
        gone.len()
    }

    fn leave(&mut self, client: Client, number: u64) -> Option<CancellationToken> {
        let taken = self.clients.get_mut(&client)?;
        let (_, evicted) = taken.seats.remove(&number)?;
        if taken.seats.is_empty() {
            self.clients.remove(&client);
        }
        self.count -= 1;
        Some(evicted)
    }
}

impl Taken {
    /// Connections on which nothing is under way, and since when.
    fn idle(&self) -> impl Iterator<Item = (Instant, u64)> + '_ {
        let idle = |(number, (state, _)): (&u64, &(Arc<ConnState>, CancellationToken))| {
            Some((state.idle_since()?, *number))
        };
        self.seats.iter().filter_map(idle)
    }
}

/// How many are cleared at once.
const fn most(bound: usize) -> usize {
    bound.div_ceil(CLEARED)
}

/// The `most` that have been idle longest.
fn oldest<T: Copy>(mut idle: Vec<(Instant, T)>, most: usize) -> Vec<T> {
    if most < idle.len() {
        idle.select_nth_unstable_by_key(most, |(since, _)| *since);
        idle.truncate(most);
    }
    idle.into_iter().map(|(_, who)| who).collect()
}

impl Seat {
    /// Ends when the connection must make room and nothing is under way on it.
    pub(crate) async fn evicted(&self, state: &ConnState) {
        self.evicted.cancelled().await;
        while state.idle_since().is_none() {
            tokio::time::sleep(AGAIN).await;
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.crowd.lock().leave(self.client, self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crowd(limit: usize) -> Arc<Crowd> {
        let trusted = ["10.0.0.1".parse().unwrap()];
        Arc::new(Crowd::new(limit, &trusted, &Arc::default()))
    }

    fn ip(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    async fn enter(crowd: &Arc<Crowd>, last: u8) -> Option<(Seat, Arc<ConnState>)> {
        tokio::time::advance(Duration::from_millis(1)).await;
        let state = Arc::new(ConnState::default());
        crowd.enter(ip(last), &state).map(|seat| (seat, state))
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_at_its_share_loses_its_own_oldest_idle_connection() {
        let crowd = crowd(8);
        let busy = enter(&crowd, 2).await.unwrap();
        let _under_way = busy.1.begin();
        let idle = enter(&crowd, 2).await.unwrap();
        let other = enter(&crowd, 3).await.unwrap();
        let next = enter(&crowd, 2).await.unwrap();
        assert!(idle.0.evicted.is_cancelled() && !busy.0.evicted.is_cancelled());
        assert!(!other.0.evicted.is_cancelled(), "it is not the one that takes too much");
        let _also_under_way = next.1.begin();
        assert!(enter(&crowd, 2).await.is_none(), "its share is busy");
        assert!(enter(&crowd, 3).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_are_taken_the_one_that_was_idle_longest_goes() {
        let crowd = crowd(4);
        let mut seats = Vec::new();
        for last in 2..6 {
            seats.push(enter(&crowd, last).await.unwrap());
        }
        drop(seats[0].1.begin());
        let _next = enter(&crowd, 6).await.unwrap();
        let evicted: Vec<_> = seats.iter().map(|seat| seat.0.evicted.is_cancelled()).collect();
        assert_eq!(evicted, [false, true, false, false]);
        assert_eq!(crowd.lock().count, 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_trusted_proxy_may_take_all_and_places_come_back() {
        let crowd = crowd(4);
        let mut seats = Vec::new();
        for _ in 0..4 {
            seats.push(enter(&crowd, 1).await.unwrap());
        }
        let busy: Vec<_> = seats.iter().map(|seat| seat.1.begin()).collect();
        assert!(enter(&crowd, 1).await.is_none());
        drop((busy, seats));
        assert!(crowd.lock().clients.is_empty() && crowd.lock().count == 0);
        assert!(enter(&crowd, 1).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_must_go_goes_when_nothing_is_under_way() {
        use futures_util::FutureExt as _;
        let crowd = crowd(1);
        let (seat, state) = enter(&crowd, 2).await.unwrap();
        assert!(seat.evicted(&state).now_or_never().is_none());
        let _next = enter(&crowd, 3).await.unwrap();
        let busy = state.begin();
        assert!(seat.evicted(&state).now_or_never().is_none(), "a request came just before");
        drop(busy);
        seat.evicted(&state).await;
    }
}
