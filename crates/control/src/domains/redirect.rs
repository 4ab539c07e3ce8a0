//! Which names lead to others: `smile.example` and `www.smile.example`.
//!
//! Promises: [`plan`] is pure; a name leads only to one that the same tenant holds and that leads
//! nowhere itself, so no visitor is sent in circles or to a stranger.

use std::collections::BTreeMap;

use miosa_store::domains::{Domain, RedirectPolicy};

const WWW: &str = "www.";

/// The other name of the pair.
pub fn counterpart(domain: &str) -> Option<String> {
    match domain.strip_prefix(WWW) {
        // `www.www.` is nobody's pair: a name is in one pair only.
        Some(apex) => (!apex.starts_with(WWW)).then(|| apex.to_owned()),
        None => Some(format!("{WWW}{domain}")),
    }
}

/// Whether the two policies of a pair lead to each other.
pub fn is_contradiction(one: RedirectPolicy, other: RedirectPolicy) -> bool {
    one != other && ![one, other].contains(&RedirectPolicy::None)
}

/// Of the names that are held: which leads to which. Of a pair either one may say it.
pub fn plan(held: &[Domain]) -> BTreeMap<&str, &str> {
    let by_name: BTreeMap<_, _> = held.iter().map(|one| (one.domain.as_str(), one)).collect();
    let pairs = held.iter().filter_map(|www| {
        let apex = www.domain.strip_prefix(WWW).filter(|apex| !apex.starts_with(WWW))?;
        let apex = by_name.get(apex).filter(|apex| apex.tenant == www.tenant)?;
        Some((*apex, www))
    });
    pairs.filter_map(|(apex, www)| step(apex, www)).collect()
}

/// Which of a pair leads to which, if one does.
fn step<'a>(apex: &'a Domain, www: &'a Domain) -> Option<(&'a str, &'a str)> {
    let policy = match (apex.redirect, www.redirect) {
        (RedirectPolicy::None, policy) | (policy, RedirectPolicy::None) => policy,
        // Refused when it is set; two who set it at once can still bring it about.
        (one, other) if is_contradiction(one, other) => RedirectPolicy::None,
        (policy, _) => policy,
    };
    match policy {
        RedirectPolicy::None => None,
        RedirectPolicy::ApexToWww => Some((&apex.domain, &www.domain)),
        RedirectPolicy::WwwToApex => Some((&www.domain, &apex.domain)),
    }
}

#[cfg(test)]
mod tests {
    use RedirectPolicy::{ApexToWww, None, WwwToApex};
    use miosa_store::{
        deployments::External,
        domains::{Progress, Status},
    };
    use miosa_types::{Env, TenantId, env::ManualClock};
    use proptest::prelude::*;

    use super::*;

    fn env() -> Env {
        Env::fixed(ManualClock::new("2026-06-01T12:00:00Z".parse().unwrap()), 1)
    }

    fn domain(env: &Env, tenant: TenantId, name: &str, redirect: RedirectPolicy) -> Domain {
        let now = env.now();
        Domain {
            id: env.id(),
            tenant,
            deployment: env.id(),
            domain: name.into(),
            token: String::new(),
            is_trusted: false,
            redirect,
            external: External::default(),
            progress: Progress {
                status: Status::Active,
                failure: Option::None,
                checks: 0,
                waiting_since: now,
                doubt_since: Option::None,
                next_check_at: Option::None,
                verified_at: Some(now),
            },
            tls_issued_at: Option::None,
            generation: 1,
            created_at: now,
            updated_at: now,
        }
    }

    #[test]
    fn either_name_of_a_pair_says_which_leads_to_which() {
        let (env, apex, www) = (env(), "a.test", "www.a.test");
        let tenant = env.id();
        for (of_apex, of_www, expected) in [
            (None, None, &[][..]),
            (ApexToWww, None, &[(apex, www)]),
            (None, ApexToWww, &[(apex, www)]),
            (ApexToWww, ApexToWww, &[(apex, www)]),
            (None, WwwToApex, &[(www, apex)]),
            (WwwToApex, None, &[(www, apex)]),
            // What only two at once can bring about.
            (ApexToWww, WwwToApex, &[]),
            (WwwToApex, ApexToWww, &[]),
        ] {
            let held = [domain(&env, tenant, apex, of_apex), domain(&env, tenant, www, of_www)];
            let planned: Vec<_> = plan(&held).into_iter().collect();
            assert_eq!(planned, expected, "{of_apex:?} {of_www:?}");
        }
    }

    #[test]
    fn nobody_is_led_to_a_name_that_is_not_held_or_a_strangers() {
        let env = env();
        let alone = [domain(&env, env.id(), "a.test", ApexToWww)];
        assert!(plan(&alone).is_empty());
        let apart = [
            domain(&env, env.id(), "a.test", ApexToWww),
            domain(&env, env.id(), "www.a.test", ApexToWww),
        ];
        assert!(plan(&apart).is_empty());
    }

    proptest! {
        #[test]
        fn nobody_is_led_on(
            rows in prop::collection::btree_map("(www\\.){0,3}[ab]\\.test", (0..2_usize, 0..3_usize), 0..8)
        ) {
            let env = env();
            let tenants: [TenantId; 2] = [env.id(), env.id()];
            let held: Vec<_> = rows
                .iter()
                .map(|(name, (of, policy))| {
                    domain(&env, tenants[*of], name, RedirectPolicy::ALL[*policy])
                })
                .collect();
            let planned = plan(&held);
            for (from, to) in &planned {
                prop_assert!(!planned.contains_key(to), "{} leads on", to);
                let other = counterpart(from);
                prop_assert_eq!(other.as_deref(), Some(*to));
                let of = |name: &str| held.iter().find(|one| one.domain == name).map(|one| one.tenant);
                prop_assert_eq!(of(from), of(to));
            }
        }
    }
}
