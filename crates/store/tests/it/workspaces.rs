//! The table of workspaces.

use miosa_store::{
    Error, projects,
    workspaces::{By, branded, delete, find, insert, is_used, list, update},
};

use miosa_types::Branding;

use crate::support::{Bench, on_both};

on_both!(a_workspace_is_found_by_what_its_tenant_calls_it, a_used_workspace_is_known_as_such);

async fn a_workspace_is_found_by_what_its_tenant_calls_it(bench: Bench) {
    let (home, other) = (bench.home("a").await, bench.home("b").await);
    let mut one = home.workspace;
    let mut db = bench.conn().await;
    for by in [By::Id(one.id), By::Slug("a"), By::Name(&one.name), By::External("w-a")] {
        assert_eq!(find(&mut db, one.tenant, by).await.unwrap(), Some(one.clone()), "{by:?}");
        assert_eq!(find(&mut db, other.tenant.id, by).await.unwrap(), None, "{by:?}");
    }
    let twin = bench.new_workspace(&home.tenant, "a");
    let error = insert(&mut db, &twin).await.unwrap_err();
    assert!(matches!(&error, Error::Taken { name } if name == "a"), "{error:?}");
    let same_slug = bench.new_workspace(&other.tenant, "a");
    insert(&mut db, &same_slug).await.unwrap();

    assert_eq!(branded(&mut db).await.unwrap(), []);
    (one.name, one.description, one.updated_at) = ("New".into(), None, bench.tick());
    one.branding = Some(Branding { name: Some("Own".into()), ..Branding::default() });
    update(&mut db, &one, one.updated_at).await.unwrap();
    let mut foreign = one.clone();
    (foreign.tenant, foreign.name) = (other.tenant.id, "Stolen".into());
    update(&mut db, &foreign, bench.tick()).await.unwrap();
    assert_eq!(branded(&mut db).await.unwrap(), [one.clone()]);
    assert_eq!(list(&mut db, home.tenant.id).await.unwrap(), [one.clone()]);
    one.branding = None;
    update(&mut db, &one, one.updated_at).await.unwrap();
    assert_eq!(branded(&mut db).await.unwrap(), []);
    assert_eq!(list(&mut db, other.tenant.id).await.unwrap(), [other.workspace, same_slug]);
}

async fn a_used_workspace_is_known_as_such(bench: Bench) {
    let (home, other) = (bench.home("a").await, bench.home("b").await);
    let (tenant, id) = (home.tenant.id, home.workspace.id);
    let mut db = bench.conn().await;
    assert!(is_used(&mut db, tenant, id).await.unwrap());
    assert!(!is_used(&mut db, other.tenant.id, id).await.unwrap());
    projects::delete(&mut db, tenant, home.project.id).await.unwrap();
    assert!(!is_used(&mut db, tenant, id).await.unwrap());
    assert!(!delete(&mut db, other.tenant.id, id).await.unwrap());
    assert!(delete(&mut db, tenant, id).await.unwrap());
    assert!(!delete(&mut db, tenant, id).await.unwrap());
}
