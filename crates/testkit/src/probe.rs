//! Answers of apps, as a test says.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;
use miosa_types::probe::{Outcome, Probe, Target};

/// Every app answers 200 unless a test said otherwise.
#[derive(Debug, Default)]
pub struct FakeProbe(Mutex<BTreeMap<SocketAddr, Outcome>>);

impl FakeProbe {
    /// From now on probes of `addr` come out like that.
    pub fn set(&self, addr: SocketAddr, outcome: Outcome) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(addr, outcome);
    }
}

#[async_trait]
impl Probe for FakeProbe {
    async fn probe(&self, target: &Target) -> Outcome {
        let outcomes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        outcomes.get(&target.addr).copied().unwrap_or(Outcome::Answered(200))
    }
}
