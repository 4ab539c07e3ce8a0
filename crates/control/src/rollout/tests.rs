//! Tests of the decision: situations by hand, every small state, and random histories.

use std::net::SocketAddr;

use proptest::prelude::*;
use uuid::Uuid;

use super::*;

fn now() -> Timestamp {
    "2026-06-01T12:00:00Z".parse().unwrap()
}

fn addr(n: u128) -> SocketAddr {
    ([10, 0, 0, 1], u16::try_from(n % 60_000).unwrap()).into()
}

fn v(n: u128) -> VersionId {
    VersionId::from_uuid(Uuid::from_u128(n))
}

fn i(n: u128) -> InstanceId {
    InstanceId::from_uuid(Uuid::from_u128(n))
}

/// Codes: `p` pending, `P` pending too long, `r` ready, `R` ready and held by an edge, `s` ready
/// and suspect, `S` the same and held, `d` draining and held, `l` lost, `x` exited, `X` the
/// next one of a crash loop, `Y` the last of one before the next is seen.
const CODES: &str = "pPrRsSdlxXY";

fn replica(n: u128, code: char, version: u128) -> Seen {
    let phase = match code {
        'p' | 'P' | 'X' => Phase::Pending { why: "pulling".into() },
        'r' | 'R' | 's' | 'S' => Phase::Ready { addr: addr(n) },
        'd' => Phase::Draining { addr: addr(n) },
        'l' => Phase::Lost,
        _ => Phase::Exited { code: 1 },
    };
    let age = SignedDuration::from_secs(if code == 'P' { 61 } else { 5 });
    Seen {
        instance: i(n),
        version: v(version),
        phase,
        started_at: now() - age,
        exits_in_a_row: if "XY".contains(code) { CRASH_LOOP_BUDGET } else { 0 },
        is_held: "RSd".contains(code),
        is_suspect: "sS".contains(code),
    }
}

/// `R1 p2`: a held ready replica of version 1 and a pending one of version 2.
fn state(text: &str) -> Vec<Seen> {
    let parse =
        |(n, word): (u128, &str)| replica(n, word.as_bytes()[0].into(), word[1..].parse().unwrap());
    (1..).zip(text.split_whitespace()).map(parse).collect()
}

fn wanting(version: u128, replicas: usize, serving: Option<(u128, bool)>) -> Desired {
    let has_served = serving.is_some_and(|(n, _)| n == version);
    Desired {
        wanted: Some(Wanted { version: v(version), replicas, has_served, late_starts: 0 }),
        serving: serving.map(|(n, is_static)| Serving { version: v(n), is_static }),
        is_failed: false,
    }
}

#[test]
fn a_failed_version_is_waited_for_while_it_is_tried_soon() {
    let wanted =
        |has_served, late_starts| Wanted { version: v(2), replicas: 1, has_served, late_starts };
    let seen = |exits| {
        let mut seen = state("p2 R1");
        seen[0].exits_in_a_row = exits;
        seen
    };
    for (wanted, exits, expected) in [
        (wanted(true, 0), 5, true),
        (wanted(true, 0), WORTH_WAITING - 1, true),
        (wanted(true, 0), WORTH_WAITING, false),
        (wanted(false, 0), 5, false),
        (wanted(true, LATE_START_BUDGET), 5, false),
    ] {
        assert_eq!(is_tried_soon(wanted, &seen(exits)), expected, "{wanted:?} {exits}");
    }
    assert!(!is_tried_soon(wanted(true, 0), &state("R1")), "nothing of it is tried");
}

#[test]
fn each_situation_has_its_actions() {
    let apply = Action::Apply { version: v(2), replicas: 2 };
    let scale = Action::Scale { version: v(2), replicas: 2 };
    let delete = |n| Action::Delete { version: v(n) };
    let replace = |n, when| Action::Replace { instance: i(n), when };
    let give_up = Action::GiveUp { version: v(2) };
    let fail = Action::Fail { version: v(2) };
    let dynamic = |n| Some((n, false));
    for (text, serving, routed, expected) in [
        ("", None, 2, vec![apply]),
        ("R1 R1", dynamic(1), 1, vec![apply]),
        ("R1 R1 r2 p2", dynamic(1), 1, vec![]), // one is not enough to take over from two
        ("R1 R1 r2 r2", dynamic(1), 2, vec![]), // still held by an edge
        ("r1 r1 R2 R2", dynamic(2), 2, vec![delete(1)]),
        ("r1 R1 R2 R2", dynamic(2), 2, vec![]),
        ("R2 P2", dynamic(2), 2, vec![replace(2, When::Now)]),
        ("R2 l2", dynamic(2), 2, vec![replace(2, When::WhenNewIsReady)]),
        ("R2 d2", dynamic(2), 2, vec![scale]),
        ("R2 x2", dynamic(2), 2, vec![]), // restarting is the provider's
        ("R2 X2", dynamic(2), 2, vec![]), // one of two still serves
        ("X2 p2", dynamic(2), 2, vec![fail]), // it served once, so it is still tried
        ("R1 X2 p2", dynamic(1), 1, vec![give_up]),
        ("X2 p2", None, 2, vec![give_up]),
        ("x1 p2 p2", dynamic(1), 2, vec![]), // the old one stays until another serves
        ("R2 R2 R2", dynamic(2), 2, vec![scale]),
        ("R2 R2 p2", dynamic(2), 2, vec![]), // a replacement on its way is none too many
        ("S2 R2", dynamic(2), 2, vec![]),
        ("S1 S1 r2 p2", dynamic(1), 2, vec![]), // one that answers beats two that do not
        ("R1 Y2", dynamic(1), 1, vec![scale]),  // how it ended is not known yet
        ("p2 p2", Some((1, true)), 1, vec![]),  // files serve until the processes do
        ("r2 p2", Some((1, true)), 1, vec![]),
        ("r2 r2", Some((1, true)), 2, vec![]),
    ] {
        let (desired, seen) = (wanting(2, 2, serving), state(text));
        assert_eq!(route(&desired, &seen), Some(v(routed)), "route in state `{text}`");
        assert_eq!(plan(&desired, &seen, now()), expected, "in state `{text}`");
    }
}

#[test]
fn files_take_over_at_once_and_processes_go_when_no_edge_needs_them() {
    let desired = wanting(2, 0, Some((1, false)));
    assert_eq!(route(&desired, &state("R1")), Some(v(2)));
    assert_eq!(plan(&desired, &state("R1"), now()), []);
    assert_eq!(plan(&desired, &state("r1"), now()), [Action::Delete { version: v(1) }]);
    let off = Desired::default();
    assert_eq!(route(&off, &state("R1")), None);
    assert_eq!(plan(&off, &state("R1"), now()), []);
    assert_eq!(plan(&off, &state("r1"), now()), [Action::Delete { version: v(1) }]);
}

#[test]
fn a_version_that_is_late_too_often_and_never_served_is_given_up() {
    let mut desired = wanting(2, 1, Some((1, false)));
    desired.wanted = desired.wanted.map(|w| Wanted { late_starts: LATE_START_BUDGET, ..w });
    assert_eq!(plan(&desired, &state("R1 p2"), now()), [Action::GiveUp { version: v(2) }]);
    assert_eq!(plan(&desired, &state("R1 r2"), now()), [], "it came up after all");
}

#[test]
fn a_version_that_served_is_called_failed_once_and_still_tried() {
    let mut desired = wanting(2, 1, Some((2, false)));
    assert_eq!(plan(&desired, &state("X2"), now()), [Action::Fail { version: v(2) }]);
    desired = Desired { serving: None, is_failed: true, ..desired };
    assert_eq!(plan(&desired, &state("X2"), now()), []);
    assert_eq!(
        plan(&desired, &state("P2"), now()),
        [Action::Replace { instance: i(1), when: When::Now }]
    );
    let rolled_back =
        Desired { serving: Some(Serving { version: v(3), is_static: false }), ..desired };
    let give_up = Action::GiveUp { version: v(2) };
    assert_eq!(plan(&rolled_back, &state("R3 X2"), now()), [give_up], "another serves");
}

#[test]
fn suspects_are_used_only_if_there_is_no_other() {
    let (both, one) = (state("s2 r2"), state("s2"));
    let instances =
        |seen: &[Seen]| targets(v(2), seen).into_iter().map(|s| s.instance).collect::<Vec<_>>();
    assert_eq!(instances(&both), [i(2)]);
    assert_eq!(instances(&one), [i(1)]);
}

/// All states of up to three replicas of three versions, for each intent.
#[test]
fn no_state_breaks_an_invariant() {
    let words: Vec<_> = CODES
        .chars()
        .flat_map(|code| [1, 2, 3].map(|n| format!("{code}{n}")))
        .chain([String::new()])
        .collect();
    let intents: Vec<_> = [None, Some((1, false)), Some((1, true)), Some((2, false))]
        .into_iter()
        .flat_map(|serving| [0, 1, 2].map(|replicas| wanting(2, replicas, serving)))
        .chain([Desired::default()])
        .collect();
    let count = words.len();
    for n in 0..count.pow(3) {
        let text = [0, 1, 2].map(|digit| words[n / count.pow(digit) % count].as_str()).join(" ");
        let seen = state(&text);
        for desired in &intents {
            check(desired, &seen).unwrap_or_else(|why| panic!("{why} in `{text}` {desired:?}"));
        }
    }
}

/// What must hold for every plan.
fn check(desired: &Desired, seen: &[Seen]) -> Result<(), &'static str> {
    let routed = route(desired, seen);
    let ready_of = |version| seen.iter().any(|s| s.version == version && is_ready(s));
    let kept_files = desired.serving.filter(|s| s.is_static).map(|s| s.version);
    if let (Some(wanted), Some(routed)) = (desired.wanted, routed) {
        let answers = |version| ready_of(version) || kept_files == Some(version);
        let is_anyone = seen.iter().any(is_ready) || kept_files.is_some();
        if wanted.replicas > 0 && is_anyone && !answers(routed) {
            return Err("routed nothing while something answers");
        }
    }
    for action in plan(desired, seen, now()) {
        match action {
            Action::Delete { version } => {
                if seen.iter().any(|s| s.version == version && s.is_held) {
                    return Err("deleted what an edge needs");
                }
                if routed == Some(version) || desired.wanted.is_some_and(|w| w.version == version) {
                    return Err("deleted what is wanted or routed");
                }
            }
            Action::Replace { instance, .. } => {
                if seen.iter().any(|s| s.instance == instance && is_ready(s)) {
                    return Err("replaced a ready replica");
                }
            }
            Action::GiveUp { version } | Action::Fail { version } => {
                if ready_of(version) {
                    return Err("gave up on a version that answers");
                }
            }
            Action::Apply { .. } | Action::Scale { .. } => {}
        }
    }
    Ok(())
}

/// What may happen between two steps of the reconciler.
#[derive(Clone, Copy, Debug)]
enum Happens {
    /// The n-th replica moves on: pending → ready, exited → pending again.
    Progress(usize),
    /// The n-th replica's process ends.
    Exit(usize),
    /// Edges apply the newest table and finish their requests.
    Ack,
    /// The tenant wants another version: 1 and 2 have processes, 3 has none.
    Want(u128),
    /// The reconciler runs.
    Step,
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        3 => (0..4_usize).prop_map(Happens::Progress),
        1 => (0..4_usize).prop_map(Happens::Exit),
        2 => Just(Happens::Ack),
        1 => (1..=3_u128).prop_map(Happens::Want),
        4 => Just(Happens::Step),
    ]
}

/// A provider and edges, simple enough to be right.
struct Model {
    desired: Desired,
    replicas: usize,
    seen: Vec<Seen>,
    at_edges: Vec<InstanceId>,
    next: u128,
}

impl Model {
    fn new(replicas: usize) -> Self {
        let desired = wanting(1, replicas, None);
        Self { desired, replicas, seen: vec![], at_edges: vec![], next: 100 }
    }

    fn start(&mut self, version: VersionId) {
        self.next += 1;
        let fresh = replica(self.next, 'p', 1);
        self.seen.push(Seen { version, ..fresh });
    }

    fn table(&self) -> Vec<InstanceId> {
        let routed = route(&self.desired, &self.seen);
        let of = |version| targets(version, &self.seen).into_iter().map(|s| s.instance).collect();
        routed.map(of).unwrap_or_default()
    }

    fn is_static(version: VersionId) -> bool {
        version == v(3)
    }

    fn happen(&mut self, what: Happens) {
        match what {
            Happens::Progress(n) => {
                if let Some(seen) = self.seen.get_mut(n)
                    && matches!(seen.phase, Phase::Pending { .. })
                {
                    seen.phase = Phase::Ready { addr: addr(seen.instance.uuid().as_u128()) };
                }
            }
            Happens::Exit(n) => {
                if n < self.seen.len() {
                    let gone = self.seen.remove(n);
                    self.start(gone.version);
                }
            }
            Happens::Ack => {
                self.at_edges = self.table();
                self.record_serving();
            }
            Happens::Want(n) => {
                let replicas = if Self::is_static(v(n)) { 0 } else { self.replicas };
                let wanted = Wanted { version: v(n), replicas, has_served: false, late_starts: 0 };
                self.desired.wanted = Some(wanted);
            }
            Happens::Step => self.step(),
        }
        let table = self.table();
        for seen in &mut self.seen {
            seen.is_held = table.contains(&seen.instance) || self.at_edges.contains(&seen.instance);
        }
    }

    fn record_serving(&mut self) {
        let Some(routed) = route(&self.desired, &self.seen) else { return };
        let is_static = Self::is_static(routed);
        if is_static || !self.at_edges.is_empty() {
            self.desired.serving = Some(Serving { version: routed, is_static });
        }
    }

    fn step(&mut self) {
        for action in plan(&self.desired, &self.seen, now()) {
            match action {
                Action::Apply { version, replicas } => {
                    (0..replicas).for_each(|_| self.start(version));
                }
                Action::Scale { version, replicas } => {
                    let of = |s: &&Seen| s.version == version;
                    let running = self.seen.iter().filter(of).count();
                    (running..replicas).for_each(|_| self.start(version));
                    for _ in replicas..running {
                        let last = self.seen.iter().rposition(|s| s.version == version).unwrap();
                        self.seen.remove(last);
                    }
                }
                Action::Delete { version } => self.seen.retain(|s| s.version != version),
                Action::Replace { .. } | Action::GiveUp { .. } | Action::Fail { .. } => {
                    unreachable!("nothing is late, lost or in a crash loop here")
                }
            }
        }
    }
}

proptest! {
    /// Whatever happens in whatever order: while one replica is ready there is a target, nothing
    /// that an edge needs is removed, and once the world is calm what is wanted is served by
    /// exactly what is wanted.
    #[test]
    fn histories_keep_serving_and_converge(
        replicas in 1..=2_usize,
        history in prop::collection::vec(happens(), 0..60),
    ) {
        let mut model = Model::new(replicas);
        for what in history {
            let before: Vec<_> = model.seen.iter().filter(|s| s.is_held).cloned().collect();
            model.happen(what);
            prop_assert_eq!(check(&model.desired, &model.seen), Ok(()), "{:?}", what);
            if let Happens::Step = what {
                for held in before {
                    let is_there = model.seen.iter().any(|s| s.instance == held.instance);
                    prop_assert!(is_there, "{:?} was removed while an edge needs it", held);
                }
            }
        }
        for _ in 0..12 {
            model.happen(Happens::Step);
            (0..model.seen.len()).for_each(|n| model.happen(Happens::Progress(n)));
            model.happen(Happens::Ack);
        }
        let wanted = model.desired.wanted.unwrap();
        prop_assert_eq!(plan(&model.desired, &model.seen, now()), vec![]);
        prop_assert_eq!(route(&model.desired, &model.seen), Some(wanted.version));
        prop_assert_eq!(model.seen.len(), wanted.replicas, "only what is wanted runs");
        prop_assert!(model.seen.iter().all(|s| s.version == wanted.version && is_ready(s)));
    }
}
