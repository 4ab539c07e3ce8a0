//! The table of deployments.

use miosa_store::{
    Error, Window,
    deployments::{
        External, Filter, all, find, find_by_name, find_in_project, insert, observe, of_tenant,
        page, set_failure, update,
    },
};

use crate::support::{Bench, on_both};

on_both!(
    a_row_reads_back_and_a_stale_writer_loses,
    a_deleted_deployment_gives_its_slug_free,
    lists_hold_only_what_the_filter_names_and_only_one_tenants,
);

async fn a_row_reads_back_and_a_stale_writer_loses(bench: Bench) {
    let (home, other) = (bench.home("a").await, bench.home("b").await);
    let mut one = bench.new_deployment(&home, "shop");
    let (tenant, id) = (one.tenant, one.id);
    let mut db = bench.conn().await;
    insert(&mut db, &one).await.unwrap();
    assert_eq!(find(&mut db, tenant, id).await.unwrap(), Some(one.clone()));
    assert_eq!(find(&mut db, other.tenant.id, id).await.unwrap(), None);

    let (version, now) = (bench.id(), bench.tick());
    (one.active_version, one.is_stopped) = (Some(version), true);
    update(&mut db, &one, now).await.unwrap();
    let error = update(&mut db, &one, now).await.unwrap_err();
    assert!(matches!(error, Error::Stale { .. }), "{error:?}");
    (one.generation, one.updated_at) = (2, now);
    observe(&mut db, id, Some(version), None).await.unwrap();
    set_failure(&mut db, id, "exit\0 1").await.unwrap();
    (one.serving_version, one.failure) = (Some(version), Some("exit\u{fffd} 1".into()));
    assert_eq!(find(&mut db, tenant, id).await.unwrap(), Some(one.clone()));
    observe(&mut db, id, None, None).await.unwrap();
    (one.serving_version, one.failure) = (None, None);
    assert_eq!(find(&mut db, tenant, id).await.unwrap(), Some(one));
}

async fn a_deleted_deployment_gives_its_slug_free(bench: Bench) {
    let home = bench.home("a").await;
    let mut one = bench.new_deployment(&home, "shop");
    let twin = bench.new_deployment(&home, "shop");
    let mut db = bench.conn().await;
    insert(&mut db, &one).await.unwrap();
    observe(&mut db, one.id, Some(bench.id()), None).await.unwrap();
    let error = insert(&mut db, &twin).await.unwrap_err();
    assert!(matches!(&error, Error::Taken { name } if name == "shop"), "{error:?}");
    one.deleted_at = Some(bench.tick());
    update(&mut db, &one, bench.tick()).await.unwrap();
    insert(&mut db, &twin).await.unwrap();
    assert_eq!(find(&mut db, one.tenant, one.id).await.unwrap(), None);
    let ids = |rows: Vec<miosa_store::deployments::Deployment>| {
        rows.into_iter().map(|row| row.id).collect::<Vec<_>>()
    };
    let page_of_all = page(&mut db, None).await.unwrap();
    assert_eq!(ids(page_of_all), [one.id, twin.id], "it still serves something");
    observe(&mut db, one.id, None, None).await.unwrap();
    assert_eq!(ids(all(&mut db).await.unwrap()), [twin.id]);
    assert!(page(&mut db, Some(twin.id)).await.unwrap().is_empty());
}

async fn lists_hold_only_what_the_filter_names_and_only_one_tenants(bench: Bench) {
    let (home, other) = (bench.home("a").await, bench.home("b").await);
    let tenant = home.tenant.id;
    let mut db = bench.conn().await;
    let mut one = bench.new_deployment(&home, "one");
    let user = External { user: Some("u1".into()), ..External::default() };
    one.external = user.clone();
    let mut two = bench.new_deployment(&home, "two");
    two.name = "one".into();
    let foreign = bench.new_deployment(&other, "one");
    for row in [&one, &two, &foreign] {
        insert(&mut db, row).await.unwrap();
    }
    let everything = Filter::default();
    let of = |change: &dyn Fn(&mut Filter)| {
        let mut filter = everything.clone();
        change(&mut filter);
        filter
    };
    for (filter, expected) in [
        (everything.clone(), vec![&two, &one]),
        (of(&|filter| filter.external = user.clone()), vec![&one]),
        (of(&|filter| filter.project = Some(home.project.id)), vec![&two, &one]),
        (of(&|filter| filter.project = Some(other.project.id)), vec![]),
    ] {
        let found = of_tenant(tenant, &filter).window(&mut db, &Window::default()).await.unwrap();
        assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{filter:?}");
    }
    let all = of_tenant(tenant, &everything);
    assert_eq!(all.window(&mut db, &Window::first(1)).await.unwrap(), [two.clone()]);
    let after = Window { after: Some(two.id.to_string()), ..Window::default() };
    assert_eq!(all.window(&mut db, &after).await.unwrap(), [one.clone()]);
    assert_eq!(all.count(&mut db).await.unwrap(), 2);
    let found = find_by_name(&mut db, tenant, "one").await.unwrap();
    assert_eq!(found, Some(one.clone()), "a slug comes before a name");
    let found = find_in_project(&mut db, tenant, home.project.id, "one").await.unwrap();
    assert_eq!(found, Some(two));
    let found = find_in_project(&mut db, tenant, other.project.id, &foreign.name).await.unwrap();
    assert_eq!(found, None);
}
