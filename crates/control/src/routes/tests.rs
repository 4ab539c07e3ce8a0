//! Cases of the table that a whole platform meets only by chance.

use jiff::Timestamp;
use miosa_store::versions::Artifact;
use miosa_types::{Branding, Digest, Size, Slug};
use uuid::Uuid;

use super::*;

fn at() -> Timestamp {
    "2026-06-01T12:00:00Z".parse().unwrap()
}

fn deployment() -> Deployment {
    Deployment {
        id: DeploymentId::from_uuid(Uuid::from_u128(1)),
        tenant: miosa_types::TenantId::from_uuid(Uuid::from_u128(2)),
        workspace: miosa_types::WorkspaceId::from_uuid(Uuid::from_u128(3)),
        project: miosa_types::ProjectId::from_uuid(Uuid::from_u128(4)),
        name: "shop".into(),
        slug: Slug::parse("shop").unwrap(),
        deployment_domain: "clinic.localhost".into(),
        settings: serde_json::Map::new(),
        metadata: serde_json::Map::new(),
        external: miosa_store::deployments::External::default(),
        replicas: 1,
        hold_s: 30,
        active_version: None,
        is_stopped: false,
        serving_version: None,
        failure: None,
        generation: 1,
        created_at: at(),
        updated_at: at(),
        deleted_at: None,
    }
}

fn site(deployment: &Deployment) -> Version {
    Version {
        id: VersionId::from_uuid(Uuid::from_u128(5)),
        tenant: deployment.tenant,
        deployment: deployment.id,
        number: 1,
        kind: Some(VersionKind::Static),
        state: VersionState::Ready,
        source_sandbox: None,
        source: None,
        request: serde_json::Value::Null,
        artifact: Some(Artifact { digest: Digest::of(b"site"), bytes: 4, files: 1 }),
        run: None,
        template: "base".into(),
        size: Size { memory_mib: 512, cpu_millis: 1000, disk_mib: 1024 },
        workload: miosa_types::WorkloadId::from_uuid(Uuid::from_u128(6)),
        revision: 1,
        is_promoted_when_ready: true,
        failure: None,
        created_at: at(),
        updated_at: at(),
        ready_at: Some(at()),
        promoted_at: Some(at()),
        served_at: None,
        archived_at: None,
    }
}

/// The target of the host, and what is said of the app.
fn said(
    deployment: &Deployment,
    version: Option<&Version>,
    is_building: bool,
) -> (Option<Target>, Option<Availability>) {
    let versions = version.map(|version| (version.id, version.clone())).into_iter().collect();
    let mut entries = Vec::new();
    app_entries(
        &AppFacts {
            deployment,
            owner: deployment.tenant.into(),
            names: &[],
            seen: &[],
            is_building,
        },
        &versions,
        &mut entries,
    );
    let target = entries.iter().find_map(|entry| match entry {
        Entry::Route(route) => Some(route.target.clone()),
        _ => None,
    });
    let app = entries.iter().find_map(|entry| match entry {
        Entry::App(app) => Some(app.availability.clone()),
        _ => None,
    });
    (target, app)
}

/// From the first build to the first file: nobody who waits is told that the app is stopped.
#[test]
fn a_first_site_is_waited_for_until_edges_serve_it() {
    let starting = Some(Availability::Starting { since: at() });
    let mut deployment = deployment();
    let version = site(&deployment);
    let app = Some(Target::App { app: deployment.id });
    let files = static_target(&version);
    assert_eq!(said(&deployment, None, true), (app.clone(), starting.clone()));
    deployment.active_version = Some(version.id);
    let unread = said(&deployment, None, false);
    assert_eq!(unread, (app, starting.clone()), "the version was read before its build ended");
    assert_eq!(said(&deployment, Some(&version), false), (files.clone(), starting));
    deployment.serving_version = Some(version.id);
    assert_eq!(said(&deployment, Some(&version), false), (files, None));
}

#[test]
fn what_is_off_or_failed_is_not_called_starting() {
    let mut deployment = deployment();
    deployment.active_version = Some(VersionId::from_uuid(Uuid::from_u128(5)));
    deployment.failure = Some("exit 1".into());
    assert_eq!(said(&deployment, None, false).1, Some(Availability::Failed));
    deployment.is_stopped = true;
    for is_building in [false, true] {
        assert_eq!(said(&deployment, None, is_building).1, Some(Availability::Stopped));
    }
}

/// Edges wait for answers of a replica that drains, but not of one that hung.
#[test]
fn a_replica_that_hung_leaves_the_table_when_it_is_replaced() {
    let addr = ([127, 0, 0, 1], 80).into();
    let state = |phase: &Phase, is_suspect, is_target: bool| {
        let instance = InstanceId::from_uuid(Uuid::from_u128(7));
        let seen = Seen {
            instance,
            version: VersionId::from_uuid(Uuid::from_u128(5)),
            phase: phase.clone(),
            started_at: at(),
            exits_in_a_row: 0,
            is_held: false,
            is_suspect,
        };
        let targets = is_target.then_some(instance).into_iter().collect();
        replica(&seen, &targets).map(|replica| replica.state)
    };
    let (ready, draining) = (Phase::Ready { addr }, Phase::Draining { addr });
    assert_eq!(state(&ready, true, true), Some(ReplicaState::Ready), "there is no other");
    assert_eq!(state(&ready, true, false), Some(ReplicaState::Draining), "it may only be busy");
    assert_eq!(state(&draining, false, false), Some(ReplicaState::Draining), "a rollout");
    assert_eq!(state(&draining, true, false), None);
}

fn branding(name: &str, color: Option<&str>) -> Branding {
    let primary_color = color.map(Into::into);
    Branding { name: Some(name.into()), primary_color, ..Branding::default() }
}

fn tenant(of: &Deployment) -> Tenant {
    Tenant {
        id: of.tenant,
        slug: Slug::parse("clinic").unwrap(),
        name: "Clinic".into(),
        preview_domain: None,
        deployment_domain: "clinic.localhost".into(),
        console_domain: None,
        branding: Some(branding("Clinic", Some("#112233"))),
        settings: serde_json::Map::new(),
        generation: 1,
        created_at: at(),
        updated_at: at(),
    }
}

fn workspace(of: &Deployment) -> Workspace {
    Workspace {
        id: of.workspace,
        tenant: of.tenant,
        name: "Dental".into(),
        slug: Slug::parse("dental").unwrap(),
        description: None,
        external_workspace_id: None,
        branding: Some(branding("Dental", None)),
        metadata: serde_json::Map::new(),
        created_at: at(),
        updated_at: at(),
    }
}

/// What a workspace leaves open is its tenant's, and only a workspace with a brand is named: its
/// hosts are sent anew when that changes, those of all others are not.
#[test]
fn a_workspace_brands_its_own_hosts_over_its_tenants_brand() {
    let deployment = deployment();
    let (tenant, workspace) = (tenant(&deployment), workspace(&deployment));
    let (base, apps) = ("base.localhost".into(), "apps.localhost".into());
    let domains = host::Domains { base, apps, https_port: 443 };
    let made = |branded: &BTreeMap<WorkspaceId, Workspace>| {
        table(&Facts {
            settings: link::Settings {
                domains: domains.clone(),
                console_hosts: Vec::new(),
                plain_http: false,
            },
            tenants: std::slice::from_ref(&tenant),
            branded,
            deployments: std::slice::from_ref(&deployment),
            domains: &[],
            versions: &BTreeMap::new(),
            sandboxes: &[],
            previews: &[],
            preview_tokens: &[],
            replicas: &[],
            suspects: &BTreeSet::new(),
            certificates: Vec::new(),
        })
    };
    let owner = |table: &Table, host: &str| match table.0.get(&link::Key::Route(host.into())) {
        Some(Entry::Route(route)) => route.owner,
        other => panic!("{other:?}"),
    };
    let of_tenant = Branded::from(tenant.id);
    let of_workspace = Branded { workspace: Some(workspace.id), ..of_tenant };

    assert_eq!(owner(&made(&BTreeMap::new()), "shop.clinic.localhost"), of_tenant);
    let table = made(&[(workspace.id, workspace.clone())].into());
    assert_eq!(owner(&table, "shop.clinic.localhost"), of_workspace);
    assert_eq!(owner(&table, "*.clinic.localhost"), of_tenant);
    let brand = table.0.get(&link::Key::Brand(of_workspace));
    let Some(Entry::Brand(seen)) = brand else { panic!("{brand:?}") };
    assert_eq!(seen.branding, branding("Dental", Some("#112233")));
}
