//! How often a key and a tenant may ask: one token bucket for each.
//!
//! Promises: [`take`] decides and is pure; nobody waits longer than a minute, whatever the clock
//! does; a request that is refused costs nothing; there are never more than [`MOST_BUCKETS`]
//! buckets, the least recently used makes room, and one that is gone counts as full; the operator
//! and whoever needs no key are not counted.

use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroU32,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use miosa_types::{ApiKeyId, TenantId};

use crate::{Caller, Error};

/// Buckets kept; each is some 100 bytes.
pub const MOST_BUCKETS: usize = 10_000;

/// A full bucket holds the requests of one minute.
const MINUTE_NS: i128 = 60_000_000_000;

/// Requests per minute; `None` is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// Of a key that has no rate of its own.
    pub key: Option<NonZeroU32>,
    /// Of all keys of a tenant together.
    pub tenant: Option<NonZeroU32>,
}

impl Rates {
    /// Requests per minute; 0 is no limit.
    pub const fn per_minute(key: u32, tenant: u32) -> Self {
        Self { key: NonZeroU32::new(key), tenant: NonZeroU32::new(tenant) }
    }
}

impl Default for Rates {
    /// More than an honest client asks.
    fn default() -> Self {
        Self::per_minute(6000, 30_000)
    }
}

/// A bucket: when it will be full again, if nobody asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    full_at_ns: i128,
}

/// One request to a bucket (`None`: full). The bucket after it, or how long to wait.
///
/// Invariants (tested): no span of time lets through more than a full bucket and what flowed in
/// meanwhile; who waits as long as was said gets through if nobody else asked; who asks no more
/// often than the rate is never refused; no wait is longer than a minute.
pub fn take(bucket: Option<Bucket>, rpm: NonZeroU32, now: Timestamp) -> Result<Bucket, Duration> {
    let now = now.as_nanosecond();
    let each = MINUTE_NS / i128::from(rpm.get());
    // A clock that was set back must lock nobody out.
    let spent = bucket.map_or(0, |bucket| (bucket.full_at_ns - now).clamp(0, MINUTE_NS));
    let over = spent + each - MINUTE_NS;
    if over <= 0 {
        return Ok(Bucket { full_at_ns: now + spent + each });
    }
    Err(Duration::from_nanos(u64::try_from(over).unwrap_or(u64::MAX)))
}

/// Whose bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Whose {
    Key(ApiKeyId),
    Tenant(TenantId),
}

impl Whose {
    const fn word(self) -> &'static str {
        match self {
            Self::Key(_) => "key",
            Self::Tenant(_) => "organization",
        }
    }
}

/// All buckets. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    rates: Rates,
    buckets: Arc<Mutex<Buckets>>,
    refused: Arc<AtomicU64>,
}

impl Limits {
    /// Full buckets with these rates.
    pub fn new(rates: Rates) -> Self {
        Self { rates, ..Self::default() }
    }

    /// What a key may, which has a rate of its own or none.
    pub fn of_key(&self, own: Option<NonZeroU32>) -> Option<NonZeroU32> {
        own.or(self.rates.key)
    }

    /// Requests that were refused since the start.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Counts one request of a caller, or refuses it.
    pub(crate) fn count(&self, caller: &Caller, now: Timestamp) -> Result<(), Error> {
        if caller.is_operator {
            return Ok(());
        }
        let asked = [
            (Whose::Key(caller.key), self.of_key(caller.rate_limit_rpm)),
            (Whose::Tenant(caller.tenant), self.rates.tenant),
        ];
        let asked: Vec<_> = asked.into_iter().filter_map(|(who, rpm)| Some((who, rpm?))).collect();
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = Vec::with_capacity(asked.len());
        for (who, rpm) in asked {
            match take(buckets.get(who), rpm, now) {
                Ok(bucket) => taken.push((who, bucket)),
                Err(wait) => {
                    // It was used, though nothing was taken.
                    if let Some(bucket) = buckets.get(who) {
                        buckets.put(who, bucket);
                    }
                    self.refused.fetch_add(1, Ordering::Relaxed);
                    return Err(Error::TooMany { what: who.word(), rpm: rpm.get(), wait });
                }
            }
        }
        for (who, bucket) in taken {
            buckets.put(who, bucket);
        }
        Ok(())
    }
}

/// Buckets by owner, and the order in which they were used.
#[derive(Debug, Default)]
struct Buckets {
    by_owner: HashMap<Whose, (Bucket, u64)>,
    by_use: BTreeMap<u64, Whose>,
    uses: u64,
}

impl Buckets {
    fn get(&self, who: Whose) -> Option<Bucket> {
        self.by_owner.get(&who).map(|(bucket, _)| *bucket)
    }

    fn put(&mut self, who: Whose, bucket: Bucket) {
        self.uses += 1;
        if let Some((_, used)) = self.by_owner.insert(who, (bucket, self.uses)) {
            self.by_use.remove(&used);
        }
        self.by_use.insert(self.uses, who);
        while self.by_owner.len() > MOST_BUCKETS
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            self.by_owner.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ns: i128) -> Timestamp {
        Timestamp::from_nanosecond(1_780_000_000_000_000_000 + ns).unwrap()
    }

    fn rpm(n: u32) -> NonZeroU32 {
        NonZeroU32::new(n).unwrap()
    }

    proptest! {
        #[test]
        fn a_bucket_lets_through_its_rate_and_no_more(
            rate in 1..200_000_u32,
            gaps in proptest::collection::vec(0..2_000_000_000_i128, 1..200),
        ) {
            let rate = rpm(rate);
            let (mut bucket, mut now, mut passed) = (None, 0, Vec::new());
            for gap in gaps {
                now += gap;
                match take(bucket, rate, at(now)) {
                    Ok(next) => {
                        bucket = Some(next);
                        passed.push(now);
                    }
                    Err(wait) => {
                        let wait = i128::try_from(wait.as_nanos()).unwrap();
                        prop_assert!(wait > 0 && wait <= MINUTE_NS);
                        prop_assert!(take(bucket, rate, at(now + wait)).is_ok());
                        prop_assert!(take(bucket, rate, at(now + wait - 1)).is_err());
                    }
                }
            }
            for (n, from) in passed.iter().enumerate() {
                for (m, to) in passed.iter().enumerate().skip(n) {
                    let inflow = (to - from) * i128::from(rate.get()) / MINUTE_NS;
                    let count = i128::try_from(m - n + 1).unwrap();
                    prop_assert!(count <= i128::from(rate.get()) + inflow + 1);
                }
            }
        }

        #[test]
        fn who_keeps_to_the_rate_is_never_refused(rate in 1..5000_u32, late in 0..1_000_000_i128) {
            let rate = rpm(rate);
            let each = MINUTE_NS / i128::from(rate.get()) + 1 + late;
            let mut bucket = None;
            for n in 0..1000 {
                bucket = Some(take(bucket, rate, at(n * each)).unwrap());
            }
        }

        #[test]
        fn a_clock_that_jumps_locks_nobody_out(jump in -4_000_000_000_000_000_i128..0) {
            let mut bucket = None;
            while let Ok(next) = take(bucket, rpm(10), at(0)) {
                bucket = Some(next);
            }
            let wait = take(bucket, rpm(10), at(jump)).unwrap_err();
            prop_assert!(wait <= Duration::from_secs(6), "{wait:?}");
        }
    }

    #[test]
    fn a_full_bucket_holds_a_minute() {
        for rate in [1, 7, 60, 6000] {
            let mut bucket = None;
            for n in 0..rate {
                bucket = Some(
                    take(bucket, rpm(rate), at(0)).unwrap_or_else(|_| panic!("{n} of {rate}")),
                );
            }
            assert!(take(bucket, rpm(rate), at(0)).is_err(), "{rate}");
        }
    }

    #[test]
    fn memory_is_bounded_and_the_least_recently_used_goes() {
        let env = miosa_types::Env::system();
        let id = || Whose::Key(ApiKeyId::from_uuid(env.uuid()));
        let (first, second) = (id(), id());
        let mut buckets = Buckets::default();
        let some = take(None, rpm(1), at(0)).unwrap();
        buckets.put(first, some);
        buckets.put(second, some);
        for _ in 0..MOST_BUCKETS - 2 {
            buckets.put(id(), some);
        }
        buckets.put(first, some);
        buckets.put(id(), some);
        assert_eq!((buckets.by_owner.len(), buckets.by_use.len()), (MOST_BUCKETS, MOST_BUCKETS));
        assert!(buckets.get(first).is_some() && buckets.get(second).is_none());
    }
}
