//! Which builds begin, and what the owner is told.

use jiff::SignedDuration;
use miosa_provider::Exit;
use miosa_types::{Digest, Env, Size, env::ManualClock};
use uuid::Uuid;

use super::*;

fn now() -> Timestamp {
    "2026-06-01T12:00:00Z".parse().unwrap()
}

fn v(n: u128) -> VersionId {
    VersionId::from_uuid(Uuid::from_u128(n))
}

fn w(n: u128) -> WorkloadId {
    WorkloadId::from_uuid(Uuid::from_u128(n))
}

#[test]
fn an_interrupted_build_waits_and_keeps_no_other_from_its_turn() {
    let rests = |seconds: i64| Interrupted {
        reasons: vec![String::new()],
        short_since: None,
        until: now() + SignedDuration::from_secs(seconds),
    };
    let build = |n| Build {
        tenant: TenantId::from_uuid(Uuid::nil()),
        workload: w(n),
        stop: Arc::default(),
    };
    let running = |workloads: &[u128], interrupted: &[(u128, i64)]| Running {
        builds: workloads.iter().map(|n| (v(*n), build(*n))).collect(),
        interrupted: interrupted.iter().map(|(n, s)| (v(*n), rests(*s))).collect(),
    };
    let own = TenantId::from_uuid(Uuid::nil());
    let waiting = [1, 2, 3].map(|n| (v(n), own));
    for (running, expected) in [
        (running(&[], &[]), vec![v(1), v(2)]),
        (running(&[1], &[]), vec![v(2)]),
        (running(&[1, 2], &[]), vec![]),
        (running(&[], &[(1, 1), (2, 1)]), vec![v(3)]),
        (running(&[], &[(1, 0)]), vec![v(1), v(2)]),
    ] {
        assert_eq!(plan(&waiting, &running, now()), expected, "{running:?}");
    }
}

#[test]
fn one_tenant_keeps_no_other_from_building() {
    let tenant = |n| TenantId::from_uuid(Uuid::from_u128(n));
    let build = |of| Build { tenant: tenant(of), workload: w(of), stop: Arc::default() };
    let waiting = [(1, 1), (2, 1), (3, 1), (4, 2)].map(|(n, of)| (v(n), tenant(of)));
    let mut running = Running::default();
    assert_eq!(plan(&waiting, &running, now()), [v(1), v(4), v(2)]);
    assert_eq!(plan(&waiting[..3], &running, now()), [v(1), v(2)], "the last slot stays free");
    running.builds = [(v(1), build(1)), (v(2), build(1))].into();
    assert_eq!(plan(&waiting, &running, now()), [v(4)]);
    running.builds.insert(v(4), build(2));
    assert_eq!(plan(&waiting, &running, now()), []);
}

#[test]
fn each_interruption_makes_the_pause_longer() {
    let env = Env::fixed(ManualClock::new(now()), 7);
    let mut interrupted = Interrupted::default();
    for n in 1..ATTEMPTS {
        let pause = interrupted.again("why".into(), &env);
        assert!(pause >= REST.pause(n) / 2 && pause <= REST.pause(n), "{n}: {pause:?}");
        assert_eq!(interrupted.until, now() + pause);
    }
}

#[test]
fn a_build_waits_for_room_for_an_hour_and_that_is_no_attempt() {
    let clock = ManualClock::new(now());
    let env = Env::fixed(clock.clone(), 7);
    let no_room = || Outcome::NoRoom("It was held.".into());
    let mut earlier = Interrupted::default();
    let mut waits = 0;
    while env.now() < now() + ROOM_WAIT {
        let Verdict::Again { why, pause, .. } = verdict(no_room(), &mut earlier, &env) else {
            panic!("over after {waits} waits");
        };
        assert!(why.contains("no room") && earlier.until == env.now() + pause);
        clock.advance(pause);
        waits += 1;
    }
    assert!(waits > ATTEMPTS && earlier.attempts() == 0, "{waits}");
    let Verdict::Over(Outcome::Failed(why)) = verdict(no_room(), &mut earlier, &env) else {
        panic!("it waits for ever");
    };
    assert!(why.contains("no room") && why.ends_with("It was held."), "{why}");
    // Room that was there meanwhile begins another hour.
    earlier.again("why".into(), &env);
    assert!(matches!(verdict(no_room(), &mut earlier, &env), Verdict::Again { .. }));
    assert_eq!(earlier.attempts(), 1);
}

#[test]
fn the_end_of_a_build_sandbox_is_told_as_it_was() {
    let replica = |phase, ready: bool, exit: Option<(Option<i32>, &str)>| Observed {
        key: Key { workload: w(1), revision: 1 },
        instance: miosa_types::InstanceId::from_uuid(Uuid::from_u128(1)),
        owner: Owner::Build(v(1)),
        phase,
        size: Size { memory_mib: 256, cpu_millis: 500, disk_mib: 512 },
        template: Digest::of(b"t"),
        guest: None,
        started_at: now(),
        ready_at: ready.then(now),
        restarts: 0,
        exits_in_a_row: 0,
        last_exit: exit.map(|(code, tail)| Exit { code, at: now(), log_tail: tail.into() }),
    };
    let exited = |code| Phase::Exited { code };
    let no_space = "mount: No space left on device";
    for (replica, expected) in [
        (replica(Phase::Pending { why: String::new() }, false, None), None),
        (replica(Phase::Lost, true, None), Some("cannot be seen")),
        (replica(exited(-1), false, Some((None, no_space))), Some("started: mount: No space left")),
        (replica(exited(-1), false, None), Some("could not be started")),
        (replica(exited(-1), true, Some((None, "hello"))), Some("was killed")),
        (replica(exited(137), true, Some((Some(137), ""))), Some("ran out of memory")),
        (replica(exited(143), true, None), Some("signal 15")),
        (replica(exited(3), true, None), Some("exit code 3")),
    ] {
        let told = ended(&replica);
        match expected {
            None => assert_eq!(told, None),
            Some(expected) => {
                let told = told.unwrap();
                assert!(told.contains(expected) && !told.contains("-1"), "{told}");
            }
        }
    }
}
