//! Events: what happened to a tenant's objects.

use jiff::Timestamp;
use miosa_types::{EventId, TenantId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// One event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Its id; rises with time, so it is the `after` of what comes next.
    pub id: EventId,
    /// As `runtime.replaced`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whose it is.
    pub tenant_id: TenantId,
    /// When it happened.
    pub ts: Timestamp,
    /// What it is about: `deployment_id`, `instance_id`, `reason`, `recovery_ms`, …
    pub data: Map<String, Value>,
}

/// A page of events, oldest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = EventPage)]
pub struct Page {
    /// The events.
    pub data: Vec<Event>,
    /// `after` of the next page; null on the last.
    pub next_cursor: Option<EventId>,
}
