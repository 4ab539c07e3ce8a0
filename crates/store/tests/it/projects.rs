//! The table of projects.

use miosa_store::{
    Error, deployments,
    projects::{By, delete, find, find_in, insert, is_used, list, update},
    workspaces,
};

use crate::support::{Bench, on_both};

on_both!(a_project_is_found_by_what_its_tenant_calls_it, a_used_project_is_known_as_such);

async fn a_project_is_found_by_what_its_tenant_calls_it(bench: Bench) {
    let (home, other) = (bench.home("a").await, bench.home("b").await);
    let mut one = home.project;
    let (tenant, workspace) = (one.tenant, one.workspace);
    let mut db = bench.conn().await;
    assert_eq!(find(&mut db, tenant, one.id).await.unwrap(), Some(one.clone()));
    assert_eq!(find(&mut db, other.tenant.id, one.id).await.unwrap(), None);
    for by in [By::Slug("a"), By::Name(&one.name), By::External("p-a")] {
        let found = find_in(&mut db, tenant, workspace, by).await.unwrap();
        assert_eq!(found, Some(one.clone()), "{by:?}");
        let found = find_in(&mut db, tenant, other.workspace.id, by).await.unwrap();
        assert_eq!(found, None, "{by:?}");
        let found = find_in(&mut db, other.tenant.id, workspace, by).await.unwrap();
        assert_eq!(found, None, "{by:?}");
    }
    let twin = bench.new_project(&home.workspace, "a");
    let error = insert(&mut db, &twin).await.unwrap_err();
    assert!(matches!(&error, Error::Taken { name } if name == "a"), "{error:?}");
    let second = bench.new_workspace(&home.tenant, "second");
    workspaces::insert(&mut db, &second).await.unwrap();
    let same_slug = bench.new_project(&second, "a");
    insert(&mut db, &same_slug).await.unwrap();

    (one.name, one.description) = ("New".into(), Some("text".into()));
    one.updated_at = bench.tick();
    update(&mut db, &one, one.updated_at).await.unwrap();
    let all = [one.clone(), same_slug.clone()];
    assert_eq!(list(&mut db, tenant, None).await.unwrap(), all);
    assert_eq!(list(&mut db, tenant, Some(second.id)).await.unwrap(), [same_slug]);
    assert!(list(&mut db, other.tenant.id, Some(workspace)).await.unwrap().is_empty());
}

async fn a_used_project_is_known_as_such(bench: Bench) {
    let (home, other) = (bench.home("a").await, bench.home("b").await);
    let (tenant, id) = (home.tenant.id, home.project.id);
    let mut db = bench.conn().await;
    assert!(!is_used(&mut db, tenant, id).await.unwrap());
    deployments::insert(&mut db, &bench.new_deployment(&home, "shop")).await.unwrap();
    assert!(is_used(&mut db, tenant, id).await.unwrap());
    assert!(!is_used(&mut db, other.tenant.id, id).await.unwrap());
    let error = delete(&mut db, tenant, id).await.unwrap_err();
    assert!(matches!(error, Error::Query(_)), "a deployment refers to it: {error:?}");
    assert!(!delete(&mut db, tenant, other.project.id).await.unwrap());
    assert!(delete(&mut db, other.tenant.id, other.project.id).await.unwrap());
}
