use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use miosa_types::{Env, Size, WorkloadId, env::ManualClock};

use super::*;
use crate::{
    Confinement, Phase, Readiness, Root,
    conformance::{self, Subject},
    plan::STABLE,
};

struct Setup {
    fake: Arc<Fake>,
    env: Env,
    clock: Arc<ManualClock>,
}

fn setup() -> Setup {
    let clock = ManualClock::new("2026-06-01T12:00:00Z".parse().unwrap());
    let env = Env::fixed(clock.clone(), 1);
    let fake = Arc::new(Fake::new(env.clone()));
    Setup { fake, env, clock }
}

#[async_trait]
impl Subject for Setup {
    fn provider(&self) -> Arc<dyn Provider> {
        self.fake.clone()
    }

    fn env(&self) -> Env {
        self.env.clone()
    }

    fn spec(&self) -> WorkloadSpec {
        let workload: WorkloadId = self.env.id();
        WorkloadSpec {
            key: Key { workload, revision: 1 },
            owner: Owner::Version(self.env.id()),
            root: Root { template: "base".into(), layer: None },
            size: Size { memory_mib: 256, cpu_millis: 500, disk_mib: 512 },
            replicas: 1,
            restart: true,
            confinement: Confinement::Runtime,
            command: None,
            readiness: Readiness::Tcp { port: 3000 },
            hostname: "app".into(),
        }
    }

    async fn end(&self, replica: &Observed, code: i32) {
        self.fake.exit_with(replica.instance, Some(code), "the last words");
    }

    async fn pass(&self, time: Duration) {
        self.clock.advance(time);
        self.fake.tick();
    }
}

#[tokio::test]
async fn it_keeps_the_contract() {
    let setup = setup();
    setup.fake.set_templates(&["base"]);
    conformance::run(&setup).await;
    assert!(setup.fake.observed().is_empty(), "every test removes what it made");
}

#[tokio::test]
async fn a_planned_fault_comes_before_or_after_the_work() {
    let setup = setup();
    let (fake, spec) = (&setup.fake, setup.spec());
    fake.fail_call(0, Fault::Before);
    fake.fail_call(1, Fault::After);
    assert!(fake.apply(&spec).await.is_err());
    assert!(fake.observed().is_empty());
    assert!(fake.apply(&spec).await.is_err());
    assert_eq!(fake.observed().len(), 1);
    fake.apply(&spec).await.unwrap();
    assert_eq!(fake.calls().len(), 3);
    assert_eq!(fake.observed().len(), 1);
}

#[tokio::test]
async fn a_test_says_what_happens() {
    let setup = setup();
    let (fake, spec) = (&setup.fake, setup.spec());
    fake.set_auto(Auto::Pending);
    fake.apply(&spec).await.unwrap();
    let one = || fake.of_workload(spec.key.workload).remove(0);
    let instance = one().instance;
    assert!(matches!(one().phase, Phase::Pending { .. }));
    fake.running(instance);
    assert!(matches!(one().phase, Phase::Running { .. }));
    fake.ready(instance);
    assert!(matches!(one().phase, Phase::Ready { .. }));
    fake.lose(instance);
    assert_eq!(one().phase, Phase::Lost);
    fake.ready(instance);
    fake.delete(spec.key, 10).await.unwrap();
    assert!(matches!(one().phase, Phase::Draining { .. }));
    fake.exit(instance, 0);
    assert!(fake.observed().is_empty());
}

#[tokio::test]
async fn a_row_of_exits_ends_when_one_is_ready_for_a_while() {
    let setup = setup();
    let (fake, spec) = (&setup.fake, setup.spec());
    fake.apply(&spec).await.unwrap();
    let one = || fake.of_workload(spec.key.workload).remove(0);
    fake.exit(one().instance, 1);
    assert_eq!((one().exits_in_a_row, one().restarts), (1, 1));
    setup.pass(STABLE.saturating_sub(Duration::from_secs(1))).await;
    assert_eq!(one().exits_in_a_row, 1);
    setup.pass(Duration::from_secs(1)).await;
    assert_eq!((one().exits_in_a_row, one().restarts), (0, 1));
}
