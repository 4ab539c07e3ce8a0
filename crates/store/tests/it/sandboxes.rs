//! The table of sandboxes.

use miosa_store::{
    Error, Window,
    sandboxes::{
        Desired, External, Filter, State, by_name, get, insert, of_tenant, unfinished, update,
    },
};

use crate::support::{Bench, on_both};

on_both!(
    a_row_reads_back_and_a_stale_writer_loses,
    a_slug_is_taken_until_its_sandbox_is_unwanted,
    lists_hold_only_what_the_filter_names_and_only_one_tenants,
    a_list_comes_in_parts,
);

async fn a_row_reads_back_and_a_stale_writer_loses(bench: Bench) {
    let mut one = bench.new_sandbox(&bench.home("a").await);
    let mut db = bench.conn().await;
    insert(&mut db, &one).await.unwrap();
    assert_eq!(get(&mut db, one.tenant, one.id).await.unwrap(), Some(one.clone()));
    assert_eq!(one.state(), State::Creating);
    let mut stale = one.clone();
    one.ready_at = Some(bench.env.now());
    update(&mut db, &mut one, bench.env.now()).await.unwrap();
    assert_eq!((one.state(), one.generation), (State::Running, 2));
    assert_eq!(get(&mut db, one.tenant, one.id).await.unwrap(), Some(one.clone()));
    one.end_reason = Some("it said a\0b".into());
    update(&mut db, &mut one, bench.env.now()).await.unwrap();
    let found = get(&mut db, one.tenant, one.id).await.unwrap().unwrap();
    assert_eq!(found.end_reason.as_deref(), Some("it said a\u{fffd}b"));
    stale.name = None;
    let error = update(&mut db, &mut stale, bench.env.now()).await.unwrap_err();
    assert!(matches!(error, Error::Stale { .. }), "{error:?}");
}

async fn a_slug_is_taken_until_its_sandbox_is_unwanted(bench: Bench) {
    let mut one = bench.new_sandbox(&bench.home("a").await);
    let mut db = bench.conn().await;
    insert(&mut db, &one).await.unwrap();
    let other = bench.home("b").await;
    let mut two = bench.new_sandbox(&other);
    two.slug = one.slug.clone();
    let error = insert(&mut db, &two).await.unwrap_err();
    assert!(matches!(&error, Error::Taken { name } if *name == one.slug.to_string()), "{error:?}");
    two.preview_domain = "other.localhost".into();
    insert(&mut db, &two).await.unwrap();
    one.desired = Desired::Destroyed;
    update(&mut db, &mut one, bench.env.now()).await.unwrap();
    let mut three = bench.new_sandbox(&other);
    (three.slug, three.preview_domain) = (one.slug.clone(), one.preview_domain.clone());
    insert(&mut db, &three).await.unwrap();
}

async fn lists_hold_only_what_the_filter_names_and_only_one_tenants(bench: Bench) {
    let home = bench.home("a").await;
    let one = bench.new_sandbox(&home);
    let other = bench.new_sandbox(&bench.home("b").await);
    let mut db = bench.conn().await;
    insert(&mut db, &other).await.unwrap();
    let mut all = vec![one.clone()];
    all.extend((0..4).map(|n| {
        let mut more = bench.new_sandbox(&home);
        more.tags = vec!["plain".into()];
        more.external.user = (n == 0).then(|| "u2".to_owned());
        more
    }));
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
    let base = Filter::default();
    let of = |state| Filter { state: Some(state), ..base.clone() };
    let tag = |tag: &str| Filter { tag: Some(tag.into()), ..base.clone() };
    let user = External { user: Some("u2".into()), ..External::default() };
    let of_home =
        Filter { workspace: Some(one.workspace), project: Some(one.project), ..base.clone() };
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
        (Filter { external: user, ..of_home.clone() }, vec![1]),
        (Filter { project: Some(other.project), ..of_home.clone() }, vec![]),
        (Filter { workspace: Some(other.workspace), ..of_home }, vec![]),
    ] {
        let list = of_tenant(one.tenant, &filter);
        let found = list.window(&mut db, &Window::default()).await.unwrap();
        assert_eq!(list.count(&mut db).await.unwrap(), expected.len() as u64, "{filter:?}");
        let expected: Vec<_> = expected.into_iter().map(|n: usize| all[n].clone()).collect();
        assert_eq!(found, expected, "{filter:?}");
        assert!(found.iter().all(|one| filter.state.is_none_or(|state| state == one.state())));
    }
    let named = by_name(&mut db, one.tenant, "dev").await.unwrap().unwrap();
    assert_eq!(named.id, all[1].id, "the newest that is wanted and has not ended");
    assert_eq!(get(&mut db, other.tenant, one.id).await.unwrap(), None);
    let left = unfinished(&mut db, None, 10).await.unwrap();
    assert_eq!(left.len(), 5, "all but the destroyed one, of every tenant");
    assert_eq!(unfinished(&mut db, Some(left[3].id), 10).await.unwrap(), left[4..]);
}

async fn a_list_comes_in_parts(bench: Bench) {
    let (home, other) = (bench.home("a").await, bench.home("b").await);
    let mut db = bench.conn().await;
    let all = [0, 1, 2].map(|_| bench.new_sandbox(&home));
    for row in all.iter().chain([&bench.new_sandbox(&other)]) {
        insert(&mut db, row).await.unwrap();
    }
    let list = of_tenant(home.tenant.id, &Filter::default());
    for window in [
        Window { offset: 1, ..Window::first(2) },
        Window { after: Some(all[2].id.to_string()), ..Window::default() },
    ] {
        let found = list.window(&mut db, &window).await.unwrap();
        assert_eq!(found, [all[1].clone(), all[0].clone()], "{window:?}");
    }
    assert_eq!(list.window(&mut db, &Window::first(1)).await.unwrap(), [all[2].clone()]);
    assert_eq!(list.count(&mut db).await.unwrap(), 3);
}
