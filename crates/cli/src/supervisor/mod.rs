//! `miosa up`: a small parent that owns the listening sockets and keeps one edge and one control
//! running.
//!
//! Promises: the sockets are bound once and never closed while it lives, so no accept queue is
//! lost; a child that dies is started again at once (with a back-off only while it keeps dying
//! young); a new edge takes over only after it said that it serves (SIGHUP); SIGTERM drains and
//! exits 0 and workloads stay; if it dies itself, its children see a pipe's end, drain and exit.
//! It runs one thread and no runtime: what is not there cannot hang.

mod child;
mod lock;
mod plan;
mod ready;
mod sockets;
mod sys;

use std::{
    os::fd::AsFd,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use tokio::time::Instant;

use child::{Child, Role};
use plan::Restarts;
pub(crate) use ready::Ready;
pub(crate) use sockets::Sockets;

use sys::Signal;

use crate::settings::Settings;

/// How long children may drain before they are killed.
const DRAIN: Duration = Duration::from_secs(20);

/// How long a new edge may take to say that it serves before the old one is kept.
const HANDOVER: Duration = Duration::from_secs(20);

/// Runs the platform of one data folder until SIGTERM or SIGINT.
pub(crate) fn run(settings: &Settings) -> anyhow::Result<()> {
    make_data_dir(&settings.data_dir)?;
    let _lock = lock::take(&settings.data_dir)?;
    let ready_file = settings.data_dir.join("ready.json");
    remove_if_there(&ready_file)?;
    let signals = sys::Signals::block()?;
    sys::lower_oom_score();
    let sockets = Sockets::bind(settings)?;
    let supervisor = Supervisor {
        settings: settings.with_bound(&sockets),
        sockets,
        signals,
        lifeline: sys::Pipe::new()?,
        control: None,
        edge: None,
        old_edges: Vec::new(),
        restarts: [Restarts::default(), Restarts::default()],
        is_handover_wanted: false,
    };
    let outcome = supervisor.serve(&ready_file);
    remove_if_there(&ready_file)?;
    outcome
}

struct Supervisor {
    settings: Settings,
    sockets: Sockets,
    signals: sys::Signals,
    /// Children hold the read end; its write end closes when this process ends, however it ends.
    lifeline: sys::Pipe,
    control: Option<Child>,
    edge: Option<Child>,
    /// Edges that drain after a hand-over.
    old_edges: Vec<Child>,
    /// Of control and edge.
    restarts: [Restarts; 2],
    is_handover_wanted: bool,
}

impl Supervisor {
    fn serve(mut self, ready_file: &Path) -> anyhow::Result<()> {
        let mut is_announced = false;
        loop {
            self.start_missing();
            if !is_announced && self.are_both_ready() {
                Ready::of(&self.settings, &self.sockets)?.write(ready_file)?;
                tracing::info!(file = %ready_file.display(), "ready");
                is_announced = true;
            }
            match self.wait()? {
                Some(Signal::Stop) => break,
                Some(Signal::Upgrade) => self.is_handover_wanted = true,
                None => {}
            }
            self.read_readiness();
            self.reap();
            self.hand_over();
        }
        tracing::info!("draining");
        self.stop();
        if self.settings.ephemeral {
            child::run_cleanup(&self.settings)?;
        }
        Ok(())
    }

    fn are_both_ready(&self) -> bool {
        [&self.control, &self.edge].iter().all(|c| c.as_ref().is_some_and(|c| c.is_ready))
    }

    fn start_missing(&mut self) {
        let now = Instant::now();
        for role in [Role::Control, Role::Edge] {
            let is_running = match role {
                Role::Control => self.control.is_some(),
                Role::Edge => self.edge.is_some(),
            };
            if is_running || self.restarts[role.index()].wait(now) > Duration::ZERO {
                continue;
            }
            self.restarts[role.index()].started(now);
            match child::spawn(role, &self.settings, &self.sockets, &self.lifeline) {
                Ok(child) => *self.slot(role) = Some(child),
                Err(error) => {
                    tracing::error!(role = role.name(), error = %format!("{error:#}"), "start failed");
                    self.restarts[role.index()].ended(now);
                }
            }
        }
    }

    fn slot(&mut self, role: Role) -> &mut Option<Child> {
        match role {
            Role::Control => &mut self.control,
            Role::Edge => &mut self.edge,
        }
    }

    /// Waits for a signal, a child's end, a child's readiness, or the end of a back-off.
    fn wait(&self) -> anyhow::Result<Option<Signal>> {
        let mut waits = vec![self.signals.as_fd()];
        for child in self.children() {
            waits.push(child.pidfd.as_fd());
            if !child.is_ready {
                waits.push(child.readiness.as_fd());
            }
        }
        sys::poll(&waits, self.next_deadline())?;
        Ok(self.signals.read())
    }

    fn children(&self) -> impl Iterator<Item = &Child> {
        self.control.iter().chain(&self.edge).chain(&self.old_edges)
    }

    fn next_deadline(&self) -> Option<Duration> {
        let now = Instant::now();
        let missing = [(&self.control, Role::Control), (&self.edge, Role::Edge)]
            .into_iter()
            .filter(|(child, _)| child.is_none())
            .map(|(_, role)| self.restarts[role.index()].wait(now));
        let kills = self.old_edges.iter().filter_map(|child| child.kill_at);
        missing.chain(kills.map(|at| at.saturating_duration_since(now))).min()
    }

    fn read_readiness(&mut self) {
        for child in self.control.iter_mut().chain(&mut self.edge) {
            child.read_readiness();
        }
    }

    fn reap(&mut self) {
        let now = Instant::now();
        for role in [Role::Control, Role::Edge] {
            let ended = self.slot(role).as_mut().and_then(Child::ended);
            if let Some(how) = ended {
                tracing::warn!(role = role.name(), how, "child ended");
                *self.slot(role) = None;
                self.restarts[role.index()].ended(now);
            }
        }
        self.old_edges.retain_mut(|old| {
            if old.kill_at.is_some_and(|at| at <= now) {
                old.kill();
            }
            old.ended().is_none()
        });
    }

    /// Starts a new edge on the same sockets and lets the old one drain once the new one serves.
    /// One hand-over at a time: a second waits for the first.
    fn hand_over(&mut self) {
        if !self.is_handover_wanted || !self.old_edges.is_empty() {
            return;
        }
        self.is_handover_wanted = false;
        let Some(old) = self.edge.take() else { return };
        match self.start_ready_edge() {
            Ok(new) => {
                tracing::info!(old = old.pid(), new = new.pid(), "a new edge serves");
                self.edge = Some(new);
                self.old_edges.push(old.retire(Instant::now() + DRAIN));
            }
            Err(error) => {
                tracing::error!(error = %format!("{error:#}"), "the old edge is kept");
                self.edge = Some(old);
            }
        }
    }

    fn start_ready_edge(&self) -> anyhow::Result<Child> {
        let mut new = child::spawn(Role::Edge, &self.settings, &self.sockets, &self.lifeline)?;
        let end = Instant::now() + HANDOVER;
        loop {
            new.read_readiness();
            if new.is_ready {
                return Ok(new);
            }
            if let Some(how) = new.ended() {
                anyhow::bail!("the new edge ended before it served: {how}");
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                new.kill();
                anyhow::bail!("the new edge did not serve within {} s", HANDOVER.as_secs());
            }
            sys::poll(&[new.pidfd.as_fd(), new.readiness.as_fd()], Some(left))?;
        }
    }

    /// Edges first, so that no request meets a control that is gone already.
    fn stop(&mut self) {
        let edges: Vec<Child> =
            self.edge.take().into_iter().chain(self.old_edges.drain(..)).collect();
        child::stop_all(edges, DRAIN);
        child::stop_all(self.control.take().into_iter().collect(), DRAIN);
    }
}

/// The one folder that is named on the command line: a mistake in it is explained.
fn make_data_dir(data_dir: &Path) -> anyhow::Result<()> {
    let made = fs_err::create_dir_all(data_dir).and_then(|()| sys::allow_traversal(data_dir));
    made.and_then(|()| {
        let probe = data_dir.join(".writable");
        fs_err::write(&probe, "")?;
        fs_err::remove_file(&probe)
    })
    .with_context(|| {
        format!("cannot write to {}; choose another folder with --data-dir", data_dir.display())
    })
}

fn remove_if_there(file: &Path) -> anyhow::Result<()> {
    match fs_err::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// The file that names a running platform.
pub(crate) fn ready_file(data_dir: &Path) -> PathBuf {
    data_dir.join("ready.json")
}

/// Whether a platform runs on `data_dir`, ready or not.
pub(crate) fn is_running(data_dir: &Path) -> anyhow::Result<bool> {
    lock::is_held(data_dir)
}

/// Stops a running platform of `data_dir`, if there is one, and waits until it has ended.
pub(crate) fn stop_running(data_dir: &Path) -> anyhow::Result<bool> {
    if !lock::is_held(data_dir)? {
        return Ok(false);
    }
    let pid = lock::holder(data_dir)?.context("the running platform's process id is not known")?;
    sys::terminate(pid)?;
    let end = Instant::now() + 2 * DRAIN + Duration::from_secs(10);
    while lock::is_held(data_dir)? {
        anyhow::ensure!(Instant::now() < end, "process {pid} did not stop; kill it and try again");
        sys::poll(&[], Some(Duration::from_millis(20)))?;
    }
    Ok(true)
}
