//! Tests of the tables behind sandboxes, on a fresh SQLite file each.

use std::time::Duration;

use miosa_types::{Env, env::ManualClock};
use serde_json::Map;

use super::*;
use crate::{
    Store, pool_slots,
    previews::{self, Preview},
};

struct Bench {
    store: Store,
    env: Env,
    clock: std::sync::Arc<ManualClock>,
    _folder: tempfile::TempDir,
}

async fn bench() -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open_sqlite(&folder.path().join("db")).await.unwrap();
    let clock = ManualClock::new("2026-06-01T12:00:00Z".parse().unwrap());
    Bench { store, env: Env::fixed(clock.clone(), 1), clock, _folder: folder }
}

impl Bench {
    /// A tenant with one workspace and one project.
    async fn tenant(&self, slug: &str) -> Sandbox {
        let (tenant, workspace, project) = (self.env.id(), self.env.id(), self.env.id());
        let mut db = self.store.conn().await.unwrap();
        for sql in [
            "insert into tenants (id, name, slug, deployment_domain, created_at_ms, updated_at_ms)
             values ($1, $4, $4, $4, 0, 0) returning coalesce($2, $3)",
            "insert into workspaces (id, tenant_id, name, slug, created_at_ms, updated_at_ms)
             values ($2, $1, $4, $4, 0, 0) returning $3",
            "insert into projects (id, tenant_id, workspace_id, name, slug, created_at_ms,
             updated_at_ms) values ($3, $1, $2, $4, $4, 0, 0) returning id",
        ] {
            sqlx::query(sql)
                .bind(TenantId::to_string(&tenant))
                .bind(WorkspaceId::to_string(&workspace))
                .bind(ProjectId::to_string(&project))
                .bind(slug.to_owned())
                .execute(&mut *db)
                .await
                .unwrap();
        }
        self.sandbox(tenant, workspace, project)
    }

    fn sandbox(&self, tenant: TenantId, workspace: WorkspaceId, project: ProjectId) -> Sandbox {
        self.clock.advance(Duration::from_millis(1));
        let now = self.env.now();
        Sandbox {
            id: self.env.id(),
            tenant,
            workspace,
            project,
            name: Some("dev".into()),
            slug: Slug::parse(&self.env.slug(12)).unwrap(),
            preview_domain: "apps.localhost".into(),
            template: "t".into(),
            template_digest: Digest::of(b"t"),
            size: miosa_types::size::Tier::Small.size(),
            workload: self.env.id(),
            revision: 1,
            boot_path: BootPath::Cold,
            env: [("A".to_owned(), "b".to_owned())].into(),
            metadata: Map::new(),
            tags: vec!["a_b%\"".into()],
            external: External { user: Some("u1".into()), ..External::default() },
            timeout_s: 60,
            is_always_on: false,
            is_persistent: true,
            expires_at: Some(now + Duration::from_mins(1)),
            desired: Desired::Running,
            ready_at: None,
            ended_at: None,
            end_reason: None,
            generation: 1,
            created_at: now,
            updated_at: now,
            destroyed_at: None,
        }
    }

    fn like(&self, other: &Sandbox) -> Sandbox {
        self.sandbox(other.tenant, other.workspace, other.project)
    }
}

#[tokio::test]
async fn a_row_reads_back_and_a_stale_writer_loses() {
    let bench = bench().await;
    let mut one = bench.tenant("a").await;
    let mut db = bench.store.conn().await.unwrap();
    insert(&mut db, &one).await.unwrap();
    assert_eq!(get(&mut db, one.tenant, one.id).await.unwrap(), Some(one.clone()));
    assert_eq!(one.state(), State::Creating);
    let mut stale = one.clone();
    one.ready_at = Some(bench.env.now());
    update(&mut db, &mut one, bench.env.now()).await.unwrap();
    assert_eq!((one.state(), one.generation), (State::Running, 2));
    assert_eq!(get(&mut db, one.tenant, one.id).await.unwrap(), Some(one.clone()));
    stale.name = None;
    let error = update(&mut db, &mut stale, bench.env.now()).await.unwrap_err();
    assert!(matches!(error, Error::Stale { .. }), "{error:?}");
}

#[tokio::test]
async fn a_slug_is_taken_until_its_sandbox_is_unwanted() {
    let bench = bench().await;
    let mut one = bench.tenant("a").await;
    let mut db = bench.store.conn().await.unwrap();
    insert(&mut db, &one).await.unwrap();
    let mut two = bench.tenant("b").await;
    two.slug = one.slug.clone();
    let error = insert(&mut db, &two).await.unwrap_err();
    assert!(matches!(&error, Error::Taken { name } if *name == one.slug.to_string()), "{error:?}");
    two.preview_domain = "other.localhost".into();
    insert(&mut db, &two).await.unwrap();
    one.desired = Desired::Destroyed;
    update(&mut db, &mut one, bench.env.now()).await.unwrap();
    let mut three = bench.like(&two);
    (three.slug, three.preview_domain) = (one.slug.clone(), one.preview_domain.clone());
    insert(&mut db, &three).await.unwrap();
}

#[tokio::test]
async fn lists_hold_only_what_the_filter_names_and_only_one_tenants() {
    let bench = bench().await;
    let one = bench.tenant("a").await;
    let other = bench.tenant("b").await;
    let mut db = bench.store.conn().await.unwrap();
    insert(&mut db, &other).await.unwrap();
    let mut all = vec![one.clone()];
    for n in 0..4 {
        let mut more = bench.like(&one);
        more.tags = vec!["plain".into()];
        more.external.user = (n == 0).then(|| "u2".to_owned());
        all.push(more);
    }
    for (n, sandbox) in all.iter_mut().enumerate() {
        insert(&mut db, sandbox).await.unwrap();
        let now = Some(bench.env.now());
        match n {
            0 => {}
            1 => sandbox.ready_at = now,
            2 => (sandbox.ready_at, sandbox.ended_at) = (now, now),
            3 => sandbox.desired = Desired::Destroyed,
            _ => (sandbox.desired, sandbox.destroyed_at) = (Desired::Destroyed, now),
        }
        update(&mut db, sandbox, bench.env.now()).await.unwrap();
    }
    let base = Filter { limit: 10, ..Filter::default() };
    let of = |state| Filter { state: Some(state), ..base.clone() };
    let tag = |tag: &str| Filter { tag: Some(tag.into()), ..base.clone() };
    let user = External { user: Some("u2".into()), ..External::default() };
    for (filter, expected) in [
        (base.clone(), vec![2, 1, 0]),
        (of(State::Creating), vec![0]),
        (of(State::Running), vec![1]),
        (of(State::Error), vec![2]),
        (of(State::Destroying), vec![3]),
        (of(State::Destroyed), vec![4]),
        (tag("a_b%\""), vec![0]),
        (tag("axb%\""), vec![]),
        (tag("plain"), vec![2, 1]),
        (tag("plai"), vec![]),
        (Filter { external: user, ..base.clone() }, vec![1]),
        (Filter { limit: 2, offset: 1, ..base.clone() }, vec![1, 0]),
        (Filter { before: Some(all[2].id), ..base.clone() }, vec![1, 0]),
    ] {
        let found = list(&mut db, one.tenant, &filter).await.unwrap();
        let expected: Vec<_> = expected.into_iter().map(|n: usize| all[n].clone()).collect();
        assert_eq!(found, expected, "{filter:?}");
        for sandbox in found {
            assert!(filter.state.is_none_or(|state| state == sandbox.state()));
        }
    }
    let named = by_name(&mut db, one.tenant, "dev").await.unwrap().unwrap();
    assert_eq!(named.id, all[1].id, "the newest that is wanted and has not ended");
    assert_eq!(get(&mut db, other.tenant, one.id).await.unwrap(), None);
    let left = unfinished(&mut db, None, 10).await.unwrap();
    assert_eq!(left.len(), 5, "all but the destroyed one, of every tenant");
    assert_eq!(unfinished(&mut db, Some(left[3].id), 10).await.unwrap(), left[4..]);
}

#[tokio::test]
async fn a_slot_is_taken_once() {
    let bench = bench().await;
    let mut db = bench.store.conn().await.unwrap();
    let slot = pool_slots::Slot {
        workload: bench.env.id(),
        template: "t".into(),
        template_digest: Digest::of(b"t"),
        size: miosa_types::size::Tier::Xs.size(),
        sandbox: None,
        created_at: bench.env.now(),
    };
    pool_slots::insert(&mut db, &slot).await.unwrap();
    assert_eq!(pool_slots::free(&mut db, 10).await.unwrap(), std::slice::from_ref(&slot));
    let (one, two, now) = (bench.env.id(), bench.env.id(), bench.env.now());
    assert!(pool_slots::take(&mut db, slot.workload, one, now).await.unwrap());
    assert!(!pool_slots::take(&mut db, slot.workload, two, now).await.unwrap());
    assert!(!pool_slots::take(&mut db, slot.workload, one, now).await.unwrap());
    assert!(!pool_slots::retire(&mut db, slot.workload).await.unwrap());
    assert!(pool_slots::free(&mut db, 10).await.unwrap().is_empty());
    pool_slots::forget(&mut db, slot.workload).await.unwrap();
    pool_slots::insert(&mut db, &slot).await.unwrap();
    assert!(pool_slots::retire(&mut db, slot.workload).await.unwrap());
}

#[tokio::test]
async fn previews_belong_to_one_sandbox_of_one_tenant() {
    let bench = bench().await;
    let one = bench.tenant("a").await;
    let other = bench.tenant("b").await;
    let mut db = bench.store.conn().await.unwrap();
    insert(&mut db, &one).await.unwrap();
    let now = bench.env.now();
    let preview = Preview {
        id: bench.env.id(),
        tenant: one.tenant,
        sandbox: one.id,
        name: Some("web".into()),
        port: 65_535,
        visibility: previews::Visibility::Private,
        metadata: Map::new(),
        created_at: now,
        updated_at: now,
    };
    previews::insert(&mut db, &preview).await.unwrap();
    let found = previews::get(&mut db, one.tenant, one.id, preview.id).await.unwrap();
    assert_eq!(found, Some(preview.clone()));
    assert_eq!(previews::get(&mut db, other.tenant, one.id, preview.id).await.unwrap(), None);
    assert!(previews::list(&mut db, other.tenant, one.id).await.unwrap().is_empty());
    assert!(!previews::delete(&mut db, (other.tenant, one.id, preview.id), now).await.unwrap());
    assert!(previews::delete(&mut db, (one.tenant, one.id, preview.id), now).await.unwrap());
    assert!(previews::list(&mut db, one.tenant, one.id).await.unwrap().is_empty());
}
