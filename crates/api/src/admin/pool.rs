//! `/admin/pool`: what the warm pool shall keep, has and did. Operator only.

use std::collections::BTreeSet;

use axum::{Router, extract::State, routing::get};
use miosa_control::{
    PoolTarget,
    pool::{self, BootPath, Targets},
};
use miosa_provider::{Observed, Owner};
use miosa_types::size::Tier;
use miosa_wire::{
    Data,
    pool::{self as wire, PutPool},
};

use crate::{AppState, Caller, Error, Json};

/// Most slots of one target.
const MOST_SLOTS: u32 = 1000;
/// Most targets.
const MOST_TARGETS: usize = 100;

/// Routes of this area.
pub(super) fn routes() -> Router<AppState> {
    Router::new().route("/admin/pool", get(read).put(put))
}

async fn read(
    State(state): State<AppState>,
    caller: Caller,
) -> Result<Json<Data<wire::Pool>>, Error> {
    caller.operator_only()?;
    show(&state).await
}

async fn put(
    State(state): State<AppState>,
    caller: Caller,
    Json(body): Json<PutPool>,
) -> Result<Json<Data<wire::Pool>>, Error> {
    caller.operator_only()?;
    let wanted = match body.targets {
        Some(targets) => Some(check(&state, targets).await?),
        None => None,
    };
    pool::set_targets(&state.control, wanted.as_deref()).await?;
    show(&state).await
}

/// The targets that were asked for, if each can be kept.
async fn check(state: &AppState, wanted: Vec<wire::Target>) -> Result<Vec<PoolTarget>, Error> {
    let invalid = |n: usize, field: &str, why: String| Error::InvalidFields {
        errors: vec![(format!("targets[{n}].{field}"), why)],
    };
    if wanted.len() > MOST_TARGETS {
        let message = format!("give at most {MOST_TARGETS}");
        return Err(Error::Invalid { field: "targets", message });
    }
    let memory = state.control.provider.memory().await;
    let (mut targets, mut seen) = (Vec::new(), BTreeSet::new());
    for (n, wire::Target { template, size, count }) in wanted.into_iter().enumerate() {
        let Some(known) = state.control.templates.resolve(&template) else {
            return Err(invalid(n, "template", format!("there is no template `{template}`")));
        };
        let Some(tier) = Tier::parse(&size) else {
            let words = Tier::ALL.map(Tier::as_str).join(", ");
            return Err(invalid(n, "size", format!("must be one of {words}")));
        };
        pool::check_fits(tier.size(), memory)
            .map_err(|error| invalid(n, "size", error.to_string()))?;
        if count > MOST_SLOTS {
            return Err(invalid(n, "count", format!("must be at most {MOST_SLOTS}")));
        }
        if !seen.insert((known.name.clone(), tier)) {
            return Err(invalid(n, "size", format!("{template} of size {size} is there twice")));
        }
        targets.push(PoolTarget { template: known.name, size: tier.size(), count });
    }
    Ok(targets)
}

async fn show(state: &AppState) -> Result<Json<Data<wire::Pool>>, Error> {
    let targets = pool::targets(&state.control).await?;
    let replicas = state.control.observed.replicas();
    let stats = &state.control.pool;
    let (hits, misses) = (stats.hits(), stats.misses());
    let wait = |boot_path| {
        let waits = stats.waits(boot_path);
        let mean_ms = waits.mean().map(|mean| u64::try_from(mean.as_millis()).unwrap_or(u64::MAX));
        wire::Wait { count: waits.count, mean_ms }
    };
    Ok(Json(Data::new(wire::Pool {
        source: if targets.is_set { "operator" } else { "configuration" },
        targets: fill(state, &targets, replicas.as_deref()),
        hits,
        misses,
        hit_percent: (hits * 100).checked_div(hits + misses),
        refill_failures: stats.refill_failures(),
        warm: wait(BootPath::Warm),
        cold: wait(BootPath::Cold),
    })))
}

/// Slots of each target; what is there is null while nothing is known of the provider.
pub(super) fn fill(
    state: &AppState,
    targets: &Targets,
    replicas: Option<&[Observed]>,
) -> Vec<wire::Fill> {
    let one = |target: &PoolTarget| {
        let template = state.control.templates.resolve(&target.template).map(|found| found.digest);
        let slots: Option<Vec<_>> = replicas.map(|replicas| {
            replicas
                .iter()
                .filter(|one| one.owner == Owner::Pool && one.size == target.size)
                .filter(|one| template.is_none_or(|digest| one.template == digest))
                .collect()
        });
        let is_ready = |one: &&&Observed| one.phase.ready().is_some();
        let ready = slots.as_ref().map(|slots| slots.iter().filter(is_ready).count());
        wire::Fill {
            template: target.template.clone(),
            size: target.size.tier().map_or("custom", Tier::as_str).to_owned(),
            wanted: target.count,
            ready,
            starting: slots.as_ref().zip(ready).map(|(slots, ready)| slots.len() - ready),
        }
    };
    targets.all.iter().map(one).collect()
}
