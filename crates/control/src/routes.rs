//! What edges shall serve: the link's table, computed from rows and observations.
//!
//! Promises: [`table`] is pure, so the same facts make the same table and an unchanged platform
//! makes no delta; an address enters it only from a replica that was observed; a sandbox can only
//! become a `Preview`.

use std::collections::{BTreeMap, BTreeSet};

use miosa_provider::{Observed, Owner, Phase};
use miosa_store::{
    deployments::Deployment, domains::Domain, preview_tokens::PreviewToken, previews::Preview,
    sandboxes::Sandbox, tenants::Tenant, versions::Version, workspaces::Workspace,
};
use miosa_types::{
    DeploymentId, InstanceId, SandboxId, TenantId, VersionId, WorkspaceId,
    deployment::{VersionKind, VersionState},
    host,
    link::{self, Availability, Branded, Entry, Replica, ReplicaState, Route, Table, Target},
};

use crate::{
    access,
    domains::redirect,
    rollout::{self, Desired, Seen, Serving, Wanted},
};

/// Everything that the table is made from.
#[derive(Debug)]
pub struct Facts<'a> {
    /// Installation-wide facts.
    pub settings: link::Settings,
    /// All tenants.
    pub tenants: &'a [Tenant],
    /// Workspaces that have a brand of their own.
    pub branded: &'a BTreeMap<WorkspaceId, Workspace>,
    /// All deployments.
    pub deployments: &'a [Deployment],
    /// Names that were proved to be their tenants', of deployments that exist.
    pub domains: &'a [Domain],
    /// Versions that are ready or building.
    pub versions: &'a BTreeMap<VersionId, Version>,
    /// Sandboxes that are wanted.
    pub sandboxes: &'a [Sandbox],
    /// Previews of sandboxes.
    pub previews: &'a [Preview],
    /// Tokens that still open something.
    pub preview_tokens: &'a [PreviewToken],
    /// What was last observed.
    pub replicas: &'a [Observed],
    /// Replicas that do not answer the monitor.
    pub suspects: &'a BTreeSet<InstanceId>,
    /// Certificates that edges shall use.
    pub certificates: Vec<link::Certificate>,
}

/// Replicas of every deployment, by deployment. What a version of no known deployment runs is
/// left out: nobody may route to it.
pub fn seen_by_deployment(
    versions: &BTreeMap<VersionId, Version>,
    replicas: &[Observed],
    suspects: &BTreeSet<InstanceId>,
    is_held: impl Fn(InstanceId) -> bool,
) -> BTreeMap<DeploymentId, Vec<Seen>> {
    let mut all: BTreeMap<DeploymentId, Vec<Seen>> = BTreeMap::new();
    for observed in replicas {
        let Owner::Version(version) = observed.owner else { continue };
        let Some(row) = versions.get(&version) else { continue };
        all.entry(row.deployment).or_default().push(Seen {
            instance: observed.instance,
            version,
            phase: observed.phase.clone(),
            started_at: observed.started_at,
            exits_in_a_row: observed.exits_in_a_row,
            is_held: is_held(observed.instance),
            is_suspect: suspects.contains(&observed.instance),
        });
    }
    all
}

/// What is wanted of a deployment.
pub fn desired(
    deployment: &Deployment,
    versions: &BTreeMap<VersionId, Version>,
    late_starts: u32,
) -> Desired {
    let of = |id: Option<VersionId>| versions.get(&id?).filter(|v| v.state == VersionState::Ready);
    let is_static = |v: &Version| v.kind == Some(VersionKind::Static);
    let is_off = deployment.is_stopped || deployment.deleted_at.is_some();
    let wanted = of(deployment.active_version).filter(|_| !is_off).map(|version| Wanted {
        version: version.id,
        replicas: if is_static(version) { 0 } else { deployment.replicas.max(1) as usize },
        has_served: version.served_at.is_some(),
        late_starts,
    });
    let serving = of(deployment.serving_version)
        .map(|version| Serving { version: version.id, is_static: is_static(version) });
    let is_failed = deployment.failure.is_some() && serving.is_none();
    Desired { wanted, serving, is_failed }
}

/// Computes the table.
pub fn table(facts: &Facts<'_>) -> Table {
    let mut entries = vec![Entry::Settings(facts.settings.clone())];
    for tenant in facts.tenants {
        if let Some(branding) = &tenant.branding {
            let branding = branding.clone();
            entries.push(Entry::Brand(link::Brand { owner: tenant.id.into(), branding }));
        }
        entries.extend(unknown_hosts(tenant));
    }
    let tenants: BTreeMap<_, _> = facts.tenants.iter().map(|tenant| (tenant.id, tenant)).collect();
    entries.extend(facts.branded.values().filter_map(|workspace| brand(workspace, &tenants)));
    let seen = seen_by_deployment(facts.versions, facts.replicas, facts.suspects, |_| false);
    let building: BTreeSet<_> = facts
        .versions
        .values()
        .filter(|version| version.state == VersionState::Building)
        .map(|version| version.deployment)
        .collect();
    let mut by_deployment: BTreeMap<DeploymentId, Vec<&Version>> = BTreeMap::new();
    for version in facts.versions.values() {
        by_deployment.entry(version.deployment).or_default().push(version);
    }
    let redirects = redirect::plan(facts.domains);
    let mut names: BTreeMap<DeploymentId, Vec<&str>> = BTreeMap::new();
    let owners: BTreeMap<_, _> =
        facts.deployments.iter().map(|d| (d.id, facts.owner(d.tenant, d.workspace))).collect();
    for domain in facts.domains {
        if let Some(&to) = redirects.get(domain.domain.as_str()) {
            let target = Target::Redirect { to: to.to_owned() };
            let owner = owners.get(&domain.deployment).copied();
            let owner = owner.unwrap_or_else(|| domain.tenant.into());
            entries.push(Entry::Route(Route { host: domain.domain.clone(), owner, target }));
        } else {
            names.entry(domain.deployment).or_default().push(&domain.domain);
        }
    }
    for deployment in facts.deployments {
        let seen = seen.get(&deployment.id).map_or(&[][..], Vec::as_slice);
        let app = AppFacts {
            deployment,
            owner: facts.owner(deployment.tenant, deployment.workspace),
            names: names.get(&deployment.id).map_or(&[][..], Vec::as_slice),
            seen,
            is_building: building.contains(&deployment.id),
        };
        let versions = by_deployment.get(&deployment.id).map_or(&[][..], Vec::as_slice);
        app_entries(&app, facts.versions, &mut entries);
        version_routes(&app, versions, &mut entries);
    }
    sandbox_entries(facts, &tenants, &mut entries);
    entries.extend(facts.certificates.iter().cloned().map(Entry::Certificate));
    Table::from_entries(entries)
}

/// What answers for names in a tenant's domains that nobody has.
fn unknown_hosts(tenant: &Tenant) -> impl Iterator<Item = Entry> {
    let previews = tenant.preview_domain.iter().map(|domain| format!("*.sandbox.{domain}"));
    let hosts = std::iter::once(format!("*.{}", tenant.deployment_domain)).chain(previews);
    let owner = tenant.id.into();
    hosts.map(move |host| Entry::Route(Route { host, owner, target: Target::Nothing }))
}

/// What a workspace's pages look like: what it leaves open is its tenant's.
fn brand(workspace: &Workspace, tenants: &BTreeMap<TenantId, &Tenant>) -> Option<Entry> {
    let own = workspace.branding.clone()?;
    let tenant = tenants.get(&workspace.tenant)?;
    let owner = Branded { tenant: tenant.id, workspace: Some(workspace.id) };
    let branding = own.over(tenant.branding.clone().unwrap_or_default());
    Some(Entry::Brand(link::Brand { owner, branding }))
}

impl Facts<'_> {
    fn owner(&self, tenant: TenantId, workspace: WorkspaceId) -> Branded {
        let is_branded = self.branded.contains_key(&workspace);
        Branded { tenant, workspace: is_branded.then_some(workspace) }
    }
}

struct AppFacts<'a> {
    deployment: &'a Deployment,
    owner: Branded,
    /// Hosts that its owner brought.
    names: &'a [&'a str],
    seen: &'a [Seen],
    is_building: bool,
}

fn app_entries(
    app: &AppFacts<'_>,
    versions: &BTreeMap<VersionId, Version>,
    entries: &mut Vec<Entry>,
) {
    let AppFacts { deployment, seen, .. } = app;
    let desired = desired(deployment, versions, 0);
    let routed = rollout::route(&desired, seen);
    let files = routed.and_then(|id| static_target(versions.get(&id)?));
    if deployment.deleted_at.is_none() {
        let target = files.clone().unwrap_or(Target::App { app: deployment.id });
        let own = host::app(&deployment.slug, &deployment.deployment_domain);
        let brought = app.names.iter().map(|name| (*name).to_owned());
        let owner = app.owner;
        entries.extend(
            std::iter::once(own)
                .chain(brought)
                .map(|host| Entry::Route(Route { host, owner, target: target.clone() })),
        );
    }
    // Until edges serve the files, requests that wait for them must find what they wait for.
    if files.is_some() && seen.is_empty() && deployment.serving_version == routed {
        return;
    }
    if deployment.deleted_at.is_some() && seen.is_empty() {
        return;
    }
    let targets: BTreeSet<_> = routed
        .filter(|_| files.is_none())
        .map(|version| rollout::targets(version, seen))
        .unwrap_or_default()
        .into_iter()
        .map(|seen| seen.instance)
        .collect();
    let replicas = seen.iter().filter_map(|seen| replica(seen, &targets)).collect();
    entries.push(Entry::App(link::App {
        app: deployment.id,
        owner: app.owner,
        availability: availability(app, &desired, !targets.is_empty()),
        hold_s: deployment.hold_s,
        replicas,
    }));
}

/// Whatever still listens and is not a target drains, but nobody waits for one that hung and was
/// replaced.
fn replica(seen: &Seen, targets: &BTreeSet<InstanceId>) -> Option<Replica> {
    let (addr, state) = match seen.phase {
        Phase::Ready { addr } if targets.contains(&seen.instance) => (addr, ReplicaState::Ready),
        Phase::Draining { .. } if seen.is_suspect => return None,
        Phase::Ready { addr } | Phase::Draining { addr } => (addr, ReplicaState::Draining),
        _ => return None,
    };
    Some(Replica { instance: seen.instance, addr, state })
}

fn availability(app: &AppFacts<'_>, desired: &Desired, is_ready: bool) -> Availability {
    let AppFacts { deployment, seen, is_building, .. } = app;
    if is_ready {
        return Availability::Ready;
    }
    let Some(wanted) = desired.wanted else {
        let is_off = deployment.is_stopped || deployment.deleted_at.is_some();
        // Rows are read one after the other: the build of the active version may just have ended.
        let is_coming = *is_building || deployment.active_version.is_some();
        return match (is_off, &deployment.failure) {
            (false, Some(_)) if !is_building => Availability::Failed,
            (false, _) if is_coming => Availability::Starting { since: deployment.updated_at },
            _ => Availability::Stopped,
        };
    };
    let has_failed = deployment.failure.is_some() && deployment.serving_version.is_none();
    if has_failed && !is_building && !rollout::is_tried_soon(wanted, seen) {
        return Availability::Failed;
    }
    // The time must not move while nothing changes, or each step would make a delta.
    let since = seen.iter().filter(|s| s.version == wanted.version).map(|s| s.started_at).min();
    Availability::Starting { since: since.unwrap_or(deployment.updated_at) }
}

fn static_target(version: &Version) -> Option<Target> {
    let artifact = version.artifact.filter(|_| version.kind == Some(VersionKind::Static))?;
    Some(Target::Static { version: version.id, manifest: artifact.digest })
}

fn version_routes(app: &AppFacts<'_>, versions: &[&Version], entries: &mut Vec<Entry>) {
    let AppFacts { deployment, owner, .. } = *app;
    if deployment.deleted_at.is_some() || deployment.is_stopped {
        return;
    }
    for version in versions {
        let Some(target) = static_target(version) else { continue };
        entries.push(Entry::Route(Route {
            host: host::version(version.number, &deployment.slug, &deployment.deployment_domain),
            owner,
            target,
        }));
    }
}

fn sandbox_entries(
    facts: &Facts<'_>,
    tenants: &BTreeMap<TenantId, &Tenant>,
    entries: &mut Vec<Entry>,
) {
    let mut addresses: BTreeMap<SandboxId, std::net::IpAddr> = BTreeMap::new();
    for observed in facts.replicas {
        let Owner::Sandbox(sandbox) = observed.owner else { continue };
        if let Phase::Running { addr } | Phase::Ready { addr } = observed.phase {
            addresses.insert(sandbox, addr.ip());
        }
    }
    let (mut previews, mut tokens) = (BTreeMap::new(), BTreeMap::new());
    for preview in facts.previews {
        previews.entry(preview.sandbox).or_insert_with(Vec::new).push(preview);
    }
    for token in facts.preview_tokens {
        tokens.entry(token.sandbox).or_insert_with(Vec::new).push(token);
    }
    for sandbox in facts.sandboxes {
        let access = access::access(
            tenants.get(&sandbox.tenant).copied(),
            previews.get(&sandbox.id).map_or(&[], Vec::as_slice),
            tokens.get(&sandbox.id).map_or(&[], Vec::as_slice),
        );
        entries.push(Entry::Route(Route {
            host: host::sandbox(&sandbox.slug, &sandbox.preview_domain),
            owner: facts.owner(sandbox.tenant, sandbox.workspace),
            target: Target::Preview { sandbox: sandbox.id },
        }));
        entries.push(Entry::Sandbox(link::Sandbox {
            sandbox: sandbox.id,
            tenant: sandbox.tenant,
            addr: addresses.get(&sandbox.id).copied(),
            access,
        }));
    }
}

#[cfg(test)]
mod tests;
