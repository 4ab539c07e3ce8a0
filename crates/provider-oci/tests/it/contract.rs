//! The conformance suite on crun.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use miosa_provider::{Observed, Provider, WorkloadSpec, conformance};
use miosa_types::Env;

use crate::machine::{Machine, tell, with_machine};

struct OnCrun(Arc<Machine>);

#[async_trait]
impl conformance::Subject for OnCrun {
    fn provider(&self) -> Arc<dyn Provider> {
        self.0.provider()
    }

    fn env(&self) -> Env {
        self.0.env.clone()
    }

    fn spec(&self) -> WorkloadSpec {
        self.0.server()
    }

    async fn end(&self, replica: &Observed, code: i32) {
        // The connection ends with the process.
        tell(replica, &format!("exit {code}")).await.ok();
    }

    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }
}

#[test]
fn it_keeps_the_contract() {
    with_machine(async |machine| conformance::run(&OnCrun(machine)).await);
}
