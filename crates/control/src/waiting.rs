//! Why a version does not answer yet, for the owner of the app.
//!
//! Promises: [`text`] is pure; nothing here is stored or decides anything: it is what the provider
//! and the guest say at the moment when somebody asks.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use miosa_provider::{Observed, Owner, Phase};
use miosa_store::{instances as rows, versions::Version};
use miosa_types::guest::{Endpoint, ListeningPort};

use crate::{Control, instances, workloads};

/// A start that takes no longer than this needs no explanation.
pub const USUAL: SignedDuration = SignedDuration::from_secs(5);
/// How long a guest may take to tell its ports.
const PORTS_DEADLINE: Duration = Duration::from_millis(500);
/// Ports that are named at most.
const NAMED: usize = 5;

/// What a version is expected to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Port on which it shall listen.
    pub port: u16,
    /// Path that shall be answered.
    pub health_path: Option<String>,
}

impl Expected {
    /// What the row of a version says.
    pub fn of(version: &Version) -> Option<Self> {
        let run = workloads::run_config(version).ok()?;
        Some(Self { port: run.port, health_path: run.health_check_path })
    }

    /// What is wrong with the ports of an app that does not answer. `ports` is `None` if nobody can tell them.
    pub fn missed(&self, ports: Option<&[ListeningPort]>) -> String {
        let port = self.port;
        let Some(ports) = ports else {
            return match &self.health_path {
                Some(path) => format!("GET {path} on port {port} does not answer with success yet"),
                None => format!("nothing answers on port {port} yet"),
            };
        };
        if ports.iter().any(|one| one.port == port) {
            return match &self.health_path {
                Some(path) => {
                    format!("port {port} is open, but GET {path} does not answer with success yet")
                }
                None => format!("port {port} is open, but takes no connection yet"),
            };
        }
        let mut others: Vec<_> = ports.iter().map(|one| one.port).collect();
        others.sort_unstable();
        others.dedup();
        others.truncate(NAMED);
        let others: Vec<_> = others.iter().map(u16::to_string).collect();
        if others.is_empty() {
            return format!("nothing listens on port {port} yet");
        }
        let others = others.join(", ");
        format!("nothing listens on port {port} yet; the app listens on {others} instead")
    }
}

/// Why a replica is not ready; `None` if it is, or if it only just began.
pub fn text(
    expected: &Expected,
    replica: &Observed,
    ports: Option<&[ListeningPort]>,
    now: Timestamp,
) -> Option<String> {
    let age = now.duration_since(replica.started_at);
    let last = replica.last_exit.as_ref().filter(|_| replica.exits_in_a_row > 0);
    let told = match replica.phase {
        Phase::Running { .. } if age >= USUAL => {
            let missed = expected.missed(ports);
            Some(format!("It started {} s ago; {missed}.", age.as_secs()))
        }
        Phase::Pending { .. } if age >= USUAL && last.is_none() => {
            Some(format!("It has been prepared for {} s.", age.as_secs()))
        }
        Phase::Pending { .. } | Phase::Running { .. } => None,
        _ => return None,
    };
    let ended = last.map(|exit| {
        let how = instances::exit_text(exit.code, Some(&exit.log_tail));
        match replica.exits_in_a_row {
            1 => how,
            many => format!("It ended {many} times in a row. The last time: {how}"),
        }
    });
    match (told, ended) {
        (Some(told), Some(ended)) => Some(format!("{told} {ended}")),
        (told, ended) => told.or(ended),
    }
}

/// Why a version does not answer yet, with what became of the start before; `None` if it does, or
/// if nothing of it is to run.
pub async fn explain(
    control: &Control,
    version: &Version,
) -> Result<Option<String>, miosa_store::Error> {
    let replicas = control.observed.of_owner(Owner::Version(version.id)).unwrap_or_default();
    let is_ready = replicas.iter().any(|replica| replica.phase.ready().is_some());
    let newest = replicas.iter().max_by_key(|replica| replica.started_at);
    let Some(newest) = newest.filter(|_| !is_ready) else { return Ok(None) };
    let now = match Expected::of(version) {
        Some(expected) => of_replica(control, &expected, newest).await,
        None => None,
    };
    let mut db = control.store.conn().await?;
    let since = version.promoted_at.unwrap_or(version.created_at);
    let before = rows::last_late(&mut db, version.id, since).await?;
    let before = before.map(|before| format!("The start before: {before}"));
    let told: Vec<_> = now.into_iter().chain(before).collect();
    Ok((!told.is_empty()).then(|| told.join(" ")))
}

/// [`text`] with the ports that the guest tells now.
pub async fn of_replica(
    control: &Control,
    expected: &Expected,
    replica: &Observed,
) -> Option<String> {
    let ports = match (&replica.phase, &replica.guest) {
        (Phase::Running { .. }, Some(guest)) => ports(control, guest).await,
        _ => None,
    };
    text(expected, replica, ports.as_deref(), control.env.now())
}

/// The ports on which the app listens; `None` if its guest does not tell.
pub async fn ports(control: &Control, guest: &Endpoint) -> Option<Vec<ListeningPort>> {
    tokio::time::timeout(PORTS_DEADLINE, control.guest.ports(guest)).await.ok()?.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wrong_port_is_told() {
        let port =
            |port| ListeningPort { address: "0.0.0.0".into(), port, pid: None, process: None };
        let tcp = Expected { port: 3000, health_path: None };
        let http = Expected { port: 3000, health_path: Some("/up".into()) };
        for (expected, ports, told) in [
            (&tcp, None, "nothing answers on port 3000 yet"),
            (&tcp, Some(vec![]), "nothing listens on port 3000 yet"),
            (
                &tcp,
                Some(vec![port(3001), port(3001)]),
                "nothing listens on port 3000 yet; the app listens on 3001 instead",
            ),
            (&tcp, Some(vec![port(3000)]), "port 3000 is open, but takes no connection yet"),
            (
                &http,
                Some(vec![port(3000), port(9229)]),
                "port 3000 is open, but GET /up does not answer with success yet",
            ),
        ] {
            assert_eq!(expected.missed(ports.as_deref()), told);
        }
    }
}
