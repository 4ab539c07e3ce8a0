//! How workloads start and end.

use miosa_provider::{Confinement, Provider as _, Readiness, WorkloadSpec};
use tokio::time::Instant;

use crate::machine::with_machine;

#[test]
fn an_artifact_lies_over_the_template() {
    with_machine(async |machine| {
        let files = [("workspace/app/index.txt", "from the artifact"), ("etc/motd", "mine")];
        let layer = machine.artifacts.add(&files);
        let script = "cat app/index.txt; cat /etc/motd; echo more >> app/index.txt && echo written";
        let mut spec = machine.workload(&["bash", "-c", script], Readiness::Guest);
        spec.root.layer = Some(layer);
        spec.restart = false;
        let exit = machine.run(spec.clone()).await;
        assert_eq!(exit.log_tail, "from the artifactminewritten\n");
        spec.key.workload = machine.env.id();
        let again = machine.run(spec).await;
        assert_eq!(again.log_tail, exit.log_tail, "what one wrote no other sees");
    });
}

#[test]
fn a_missing_artifact_is_told() {
    with_machine(async |machine| {
        let mut spec = machine.workload(&["true"], Readiness::Guest);
        spec.root.layer = Some(miosa_types::Digest::of(b"nowhere"));
        spec.restart = false;
        let exit = machine.run(spec).await;
        assert_eq!(exit.code, None);
        assert!(exit.log_tail.contains("layer"), "{}", exit.log_tail);
    });
}

#[test]
fn a_command_that_cannot_start_says_so() {
    with_machine(async |machine| {
        let spec = machine.workload(&["/no/such/program"], Readiness::Guest);
        let exit = machine.run(WorkloadSpec { restart: false, ..spec }).await;
        assert_eq!(exit.code, Some(127), "{}", exit.log_tail);
        assert!(exit.log_tail.contains("cannot start"), "{}", exit.log_tail);
    });
}

#[test]
fn an_app_is_told_before_it_is_killed() {
    with_machine(async |machine| {
        // Each listens once it has said what SIGTERM does to it.
        let listen = "s = socket.create_server((\"127.0.0.1\", 3000))\nwhile True: time.sleep(1)";
        let begin = "import os, signal, socket, time\nsignal.signal(signal.SIGTERM,";
        let slow = format!("{begin} lambda *_: (time.sleep(0.5), os._exit(0)))\n{listen}");
        let stubborn = format!("{begin} signal.SIG_IGN)\n{listen}");
        for (script, grace_s, least, most) in [(slow, 20, 500, 5000), (stubborn, 1, 900, 5000)] {
            let spec = machine.workload(&["python3", "-c", &script], Readiness::Tcp { port: 3000 });
            machine.start(&spec).await;
            let began = Instant::now();
            machine.provider().delete(spec.key, grace_s).await.unwrap();
            machine.until(spec.key.workload, |own| own.is_empty().then_some(())).await;
            let took = began.elapsed().as_millis();
            assert!((least..most).contains(&took), "`{script}`: {took} ms");
        }
    });
}

#[test]
fn a_delete_with_less_grace_hurries_one_under_way() {
    with_machine(async |machine| {
        let stubborn = "trap '' TERM; while true; do sleep 0.05; done";
        let spec = machine.workload(&["bash", "-c", stubborn], Readiness::Guest);
        machine.start(&spec).await;
        machine.provider().delete(spec.key, 600).await.unwrap();
        machine
            .until(spec.key.workload, |own| {
                let is_draining = |one: &miosa_provider::Observed| {
                    matches!(one.phase, miosa_provider::Phase::Draining { .. })
                };
                own.iter().any(is_draining).then_some(())
            })
            .await;
        machine.remove(spec.key).await;
    });
}

#[test]
fn a_burst_of_starts_fails_nowhere() {
    with_machine(async |machine| {
        let specs: Vec<_> = (0..40).map(|_| machine.sandbox()).collect();
        let began = Instant::now();
        futures_util::future::join_all(specs.iter().map(|spec| machine.start(spec))).await;
        eprintln!("40 sandboxes at once: {:?}", began.elapsed());
        let exit = machine.script("echo still=here", Confinement::Runtime).await;
        assert_eq!(exit.log_tail, "still=here\n");
        let removing = specs.iter().map(|spec| machine.remove(spec.key));
        futures_util::future::join_all(removing).await;
    });
}
