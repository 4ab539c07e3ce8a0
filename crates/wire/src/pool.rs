//! `/admin/pool`: the warm pool, for the operator.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `PUT /admin/pool`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct PutPool {
    /// All that the pool shall keep; null: what the configuration file says.
    pub targets: Option<Vec<Target>>,
}

/// How many warm slots to keep.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[schema(as = PoolTarget)]
pub struct Target {
    /// Name of the template.
    pub template: String,
    /// `xs`, `small`, `medium`, `large` or `xl`.
    pub size: String,
    /// How many slots.
    pub count: u32,
}

/// `GET /admin/pool`. What is counted is counted from the start of control.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Pool {
    /// Where the targets come from: `operator` or `configuration`.
    pub source: &'static str,
    /// Slots of each template and size.
    pub targets: Vec<Fill>,
    /// Sandboxes that got a slot.
    pub hits: u64,
    /// Sandboxes for which there was none.
    pub misses: u64,
    /// Hits of all; null before the first sandbox.
    pub hit_percent: Option<u64>,
    /// Slots that could not be started, or ended while nobody had them.
    pub refill_failures: u64,
    /// Sandboxes that came from a slot.
    pub warm: Wait,
    /// Those that did not.
    pub cold: Wait,
}

/// Slots of one template and size.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = PoolFill)]
pub struct Fill {
    /// Name of the template.
    pub template: String,
    /// Tier, or `custom`.
    pub size: String,
    /// How many shall be there.
    pub wanted: u32,
    /// How many take commands; null: not known now.
    pub ready: Option<usize>,
    /// How many do not yet; null: not known now.
    pub starting: Option<usize>,
}

/// How long sandboxes took until they took commands.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = PoolWait)]
pub struct Wait {
    /// How many.
    pub count: u64,
    /// The mean; null before the first.
    pub mean_ms: Option<u64>,
}
