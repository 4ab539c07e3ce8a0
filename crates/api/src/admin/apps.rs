//! The published apps of all tenants, as `miosa status` lists them.

use std::collections::{BTreeMap, BTreeSet};

use miosa_control::{
    Control,
    deployments::{self, Filter, Shown},
};
use miosa_provider::{Observed, Owner};
use miosa_store::{Window, deployments::of_tenant, tenants};
use miosa_types::{deployment::VersionKind, host};
use serde::Serialize;

use crate::{Error, metrics};

/// Rows asked for at a time.
const PAGE: u32 = 100;

/// One deployment.
#[derive(Debug, Serialize)]
pub(super) struct App {
    name: String,
    /// Slug of its tenant.
    tenant: String,
    host: String,
    url: String,
    /// `pending`, `building`, `running`, `stopped` or `failed`.
    state: &'static str,
    /// `static` or `dynamic`; null before its first version is built.
    kind: Option<&'static str>,
    /// Number of the version that shall serve.
    version: Option<u32>,
    /// Why the newest attempt failed.
    failure: Option<String>,
    /// Replicas of the versions that serve or shall serve, by state.
    instances: Option<BTreeMap<&'static str, usize>>,
    /// Restarts of those replicas' workloads.
    restarts: Option<u64>,
}

/// All of them, by tenant. `replicas` is what was observed, if anything is known.
pub(super) async fn all(
    control: &Control,
    replicas: Option<&[Observed]>,
) -> Result<Vec<App>, Error> {
    let known = tenants::list(&mut *control.store.conn().await?).await?;
    let mut apps = Vec::new();
    for tenant in known {
        let mut window = Window::first(PAGE);
        let all = of_tenant(tenant.id, &Filter::default());
        loop {
            let rows = all.window(&mut *control.store.conn().await?, &window).await?;
            window.after = rows.last().map(|last| last.id.to_string());
            let page = deployments::show_all(control, tenant.id, rows).await?;
            let is_last = page.len() < PAGE as usize;
            let slug = tenant.slug.as_str();
            apps.extend(page.into_iter().map(|shown| app(slug, shown, replicas)));
            if is_last {
                break;
            }
        }
    }
    Ok(apps)
}

fn app(tenant: &str, shown: Shown, replicas: Option<&[Observed]>) -> App {
    let Shown { deployment, state, url, active, .. } = shown;
    let versions: BTreeSet<_> =
        deployment.active_version.into_iter().chain(deployment.serving_version).collect();
    let own: Option<Vec<&Observed>> = replicas.map(|all| {
        let is_own =
            |one: &&Observed| matches!(one.owner, Owner::Version(v) if versions.contains(&v));
        all.iter().filter(is_own).collect()
    });
    let by_state = |own: &Vec<&Observed>| {
        let mut counts = BTreeMap::new();
        for one in own {
            *counts.entry(metrics::phase_word(&one.phase)).or_default() += 1;
        }
        counts
    };
    // Each replica carries the count of its workload: one of each workload is counted.
    let restarts = |own: &Vec<&Observed>| {
        let workloads: BTreeMap<_, _> =
            own.iter().map(|one| (one.key.workload, u64::from(one.restarts))).collect();
        workloads.values().sum()
    };
    App {
        tenant: tenant.to_owned(),
        host: host::app(&deployment.slug, &deployment.deployment_domain),
        url,
        state,
        kind: active.as_ref().and_then(|version| version.kind).map(VersionKind::as_str),
        version: active.map(|version| version.number),
        failure: deployment.failure,
        instances: own.as_ref().map(by_state),
        restarts: own.as_ref().map(restarts),
        name: deployment.name,
    }
}
