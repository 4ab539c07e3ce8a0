//! Which addresses an installation uses, and which of them may be given out. Pure.
//!
//! Promises: a subnet never overlaps one that the machine knows; an address is not given out
//! again before [`QUARANTINE`] has passed, and then the one that rested longest comes first.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    time::Duration,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Candidates are the subnets of 10.192.0.0/10.
const RANGE: Net = Net { addr: Ipv4Addr::new(10, 192, 0, 0), prefix: 10 };
/// Length of a subnet's prefix: 16,384 addresses.
pub(crate) const PREFIX: u8 = 18;
/// How long an address rests before another workload gets it (design §5).
pub(crate) const QUARANTINE: Duration = Duration::from_mins(1);
/// Addresses of a subnet that workloads can have: without the network's, the gateway's and the
/// broadcast address.
const CAPACITY: u32 = (1 << (32 - PREFIX)) - 3;

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Net {
    /// Any address of it.
    pub(crate) addr: Ipv4Addr,
    /// Bits that its addresses share.
    pub(crate) prefix: u8,
}

impl Net {
    /// One address alone.
    pub(crate) const fn host(addr: Ipv4Addr) -> Self {
        Self { addr, prefix: 32 }
    }

    /// Whether some address is in both.
    pub(crate) fn overlaps(self, other: Self) -> bool {
        let prefix = u32::from(self.prefix.min(other.prefix));
        let mask = if prefix == 0 { 0 } else { u32::MAX << (32 - prefix) };
        u32::from(self.addr) & mask == u32::from(other.addr) & mask
    }
}

/// The addresses of one installation: a /18.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Subnet {
    /// Its first address.
    base: Ipv4Addr,
}

impl Subnet {
    /// The first candidate.
    pub(crate) const FIRST: Self = Self { base: RANGE.addr };

    /// As a range.
    pub(crate) const fn net(self) -> Net {
        Net { addr: self.base, prefix: PREFIX }
    }

    /// The host's address in it, where the DNS forwarder listens.
    pub(crate) fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.base) + 1)
    }

    /// The hardware address that goes with it: a locally administered one.
    pub(crate) fn gateway_mac(self) -> [u8; 6] {
        let [a, b, c, d] = self.gateway().octets();
        [0x02, 0x00, a, b, c, d]
    }

    /// The workload address of that index.
    fn address(self, index: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.base) + 2 + index)
    }

    /// The index of a workload address.
    pub(crate) fn index(self, address: Ipv4Addr) -> Option<u32> {
        let index = u32::from(address).checked_sub(u32::from(self.base) + 2)?;
        (index < CAPACITY).then_some(index)
    }
}

impl std::fmt::Display for Subnet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{PREFIX}", self.base)
    }
}

/// Picks a subnet that overlaps nothing in `taken`: the recorded one if it is still free, else
/// the first free one from a place that depends on `seed`.
pub(crate) fn choose(recorded: Option<Subnet>, seed: u32, taken: &[Net]) -> Option<Subnet> {
    let is_free = |subnet: &Subnet| !taken.iter().any(|net| net.overlaps(subnet.net()));
    let count = 1_u32 << (PREFIX - RANGE.prefix);
    let candidate = |n: u32| Subnet {
        base: Ipv4Addr::from(
            u32::from(RANGE.addr) + ((seed.wrapping_add(n) % count) << (32 - PREFIX)),
        ),
    };
    recorded.filter(is_free).or_else(|| (0..count).map(candidate).find(is_free))
}

/// Gives out the addresses of a subnet.
#[derive(Debug)]
pub(crate) struct Addresses {
    subnet: Subnet,
    /// Where the search begins; goes round, so that the address that rested longest is next.
    next: u32,
    used: BTreeSet<u32>,
    resting: BTreeMap<u32, Timestamp>,
}

impl Addresses {
    /// All free, the first to give out being the one of index `next`.
    pub(crate) fn new(subnet: Subnet, next: u32) -> Self {
        Self { subnet, next: next % CAPACITY, used: BTreeSet::new(), resting: BTreeMap::new() }
    }

    /// Index that the next search begins at.
    pub(crate) const fn next(&self) -> u32 {
        self.next
    }

    /// Marks an address as used: one of a workload that was there before.
    pub(crate) fn adopt(&mut self, address: Ipv4Addr) {
        self.used.extend(self.subnet.index(address));
    }

    /// A free address; `None` if there is none.
    pub(crate) fn take(&mut self, now: Timestamp) -> Option<Ipv4Addr> {
        let is_rested = |since: &Timestamp| {
            now.duration_since(*since).unsigned_abs() >= QUARANTINE && now >= *since
        };
        self.resting.retain(|_, since| !is_rested(since));
        let index = (0..CAPACITY)
            .map(|n| (self.next + n) % CAPACITY)
            .find(|index| !self.used.contains(index) && !self.resting.contains_key(index))?;
        self.used.insert(index);
        self.next = (index + 1) % CAPACITY;
        Some(self.subnet.address(index))
    }

    /// Takes an address back; it rests first.
    pub(crate) fn release(&mut self, address: Ipv4Addr, now: Timestamp) {
        if let Some(index) = self.subnet.index(address)
            && self.used.remove(&index)
        {
            self.resting.insert(index, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(addr: [u8; 4], prefix: u8) -> Net {
        Net { addr: addr.into(), prefix }
    }

    #[test]
    fn a_subnet_overlaps_nothing_that_is_known() {
        let first = choose(None, 0, &[]).unwrap();
        assert_eq!(first.to_string(), "10.192.0.0/18");
        assert_eq!(first.gateway(), Ipv4Addr::new(10, 192, 0, 1));
        assert_eq!(choose(Some(first), 77, &[]), Some(first), "a recorded one is kept");
        let taken = [net([10, 192, 0, 0], 16), net([10, 193, 7, 7], 32), net([192, 0, 2, 2], 24)];
        assert_eq!(choose(Some(first), 0, &taken).unwrap().to_string(), "10.193.64.0/18");
        assert_eq!(choose(None, 0, &[net([10, 0, 0, 0], 8)]), None);
        assert_eq!(choose(None, 255, &[]).unwrap().to_string(), "10.255.192.0/18");
        let resolver = [Net::host(Ipv4Addr::new(10, 255, 255, 53))];
        assert_eq!(choose(None, 255, &resolver).unwrap().to_string(), "10.192.0.0/18");
    }

    proptest! {
        /// No address is held twice, and none comes back before it has rested.
        #[test]
        fn an_address_rests(steps in proptest::collection::vec((any::<bool>(), 0_u16..40), 1..200)) {
            let subnet = choose(None, 0, &[]).unwrap();
            let mut addresses = Addresses::new(subnet, CAPACITY - 3);
            let mut now: Timestamp = "2026-06-01T12:00:00Z".parse().unwrap();
            let (mut held, mut released) = (Vec::new(), BTreeMap::new());
            for (is_take, seconds) in steps {
                now += Duration::from_secs(seconds.into());
                if is_take || held.is_empty() {
                    let address = addresses.take(now).unwrap();
                    prop_assert!(!held.contains(&address));
                    prop_assert!(address != subnet.gateway());
                    if let Some(at) = released.get(&address) {
                        prop_assert!(now.duration_since(*at).unsigned_abs() >= QUARANTINE);
                    }
                    held.push(address);
                } else {
                    let address = held.remove(0);
                    addresses.release(address, now);
                    released.insert(address, now);
                }
            }
        }
    }
}
