//! Events of a tenant: a list, and a stream that goes on.
//!
//! Promises: both tell only what belongs to the caller's tenant, in the order in which it happened
//! and without a gap: who comes back with the last id it saw (`after`, or `Last-Event-ID` as the
//! specification of server-sent events has it) misses nothing that is still kept.

use std::{collections::VecDeque, convert::Infallible, time::Duration};

use axum::{
    Router,
    extract::State,
    response::sse::{self, KeepAlive, Sse},
    routing::get,
};
use futures_util::{Stream, stream};
use http::HeaderMap;
use miosa_control::Control;
use miosa_store::events as rows;
use miosa_types::{DeploymentId, EventId, TenantId};
use miosa_wire::events as wire;
use serde::Deserialize;
use serde_json::Value;

use crate::{AppState, Caller, Error, Json, Query};

/// Events of a list that names no limit.
const PAGE: usize = 100;
/// Most events of one list.
const MAX_PAGE: usize = 500;
/// Rows read at a time.
const READ: u32 = 500;
/// Most patterns of one request.
const MAX_TYPES: usize = 32;
/// How often a stream looks for more.
const LOOK: Duration = Duration::from_secs(1);
/// Comments that keep a silent stream alive (the contract's 15 s).
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Routes below `/api/v1`.
pub fn routes() -> Router<AppState> {
    Router::new().route("/events", get(list)).route("/events/stream", get(follow))
}

#[derive(Debug, Default, Deserialize)]
struct Wanted {
    after: Option<EventId>,
    limit: Option<usize>,
    types: Option<String>,
    deployment_id: Option<DeploymentId>,
}

/// Which events somebody wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Filter {
    types: Vec<String>,
    subject: Option<String>,
}

impl Filter {
    fn of(wanted: &Wanted) -> Result<Self, Error> {
        let types: Vec<_> = wanted.types.iter().flat_map(|types| types.split(',')).collect();
        let types: Vec<_> =
            types.into_iter().map(str::trim).filter(|word| !word.is_empty()).collect();
        if types.len() > MAX_TYPES {
            return Err(Error::BadRequest {
                code: "INVALID_QUERY",
                message: format!("`types` names more than {MAX_TYPES}"),
            });
        }
        let types = types.into_iter().map(str::to_owned).collect();
        Ok(Self { types, subject: wanted.deployment_id.map(|id| id.to_string()) })
    }

    /// A type is named whole, or by its beginning and a `*`.
    fn wants(&self, event: &rows::Event) -> bool {
        let is_type = |pattern: &String| match pattern.strip_suffix('*') {
            Some(start) => event.kind.starts_with(start),
            None => event.kind == *pattern,
        };
        let is_subject = self.subject.as_ref().is_none_or(|subject| *subject == event.subject);
        is_subject && (self.types.is_empty() || self.types.iter().any(is_type))
    }
}

async fn list(
    State(state): State<AppState>,
    caller: Caller,
    Query(wanted): Query<Wanted>,
) -> Result<Json<wire::Page>, Error> {
    let filter = Filter::of(&wanted)?;
    let limit = match wanted.limit {
        Some(limit @ 1..=MAX_PAGE) => limit,
        None => PAGE,
        Some(_) => {
            let message = format!("`limit` must be from 1 to {MAX_PAGE}");
            return Err(Error::BadRequest { code: "INVALID_QUERY", message });
        }
    };
    let mut after = wanted.after;
    let mut data = Vec::new();
    loop {
        let mut db = state.control.store.conn().await?;
        let rows = rows::list_after(&mut db, caller.tenant, after, READ).await?;
        let is_last = rows.len() < READ as usize;
        after = rows.last().map(|last| last.id).or(after);
        data.extend(rows.into_iter().filter(|row| filter.wants(row)).map(render));
        if is_last || data.len() > limit {
            break;
        }
    }
    let has_more = data.len() > limit;
    data.truncate(limit);
    let next_cursor = data.last().map(|last| last.id).filter(|_| has_more);
    Ok(Json(wire::Page { data, next_cursor }))
}

/// A stream of events, as it goes on.
struct Following {
    control: std::sync::Arc<Control>,
    tenant: TenantId,
    filter: Filter,
    after: Option<EventId>,
    read: VecDeque<rows::Event>,
}

async fn follow(
    State(state): State<AppState>,
    caller: Caller,
    headers: HeaderMap,
    Query(wanted): Query<Wanted>,
) -> Result<Sse<impl Stream<Item = Result<sse::Event, Infallible>>>, Error> {
    let filter = Filter::of(&wanted)?;
    let last = headers.get("last-event-id").and_then(|value| value.to_str().ok());
    let last = last.and_then(|text| text.parse().ok());
    let after = match last.or(wanted.after) {
        Some(after) => Some(after),
        None => rows::newest(&mut *state.control.store.conn().await?, caller.tenant).await?,
    };
    let (control, tenant) = (state.control, caller.tenant);
    let following = Following { control, tenant, filter, after, read: VecDeque::new() };
    let events = stream::unfold(following, async |mut following| {
        let event = following.next().await;
        Some((Ok(event), following))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(HEARTBEAT)))
}

impl Following {
    async fn next(&mut self) -> sse::Event {
        loop {
            while let Some(row) = self.read.pop_front() {
                self.after = Some(row.id);
                if self.filter.wants(&row) {
                    return frame(row);
                }
            }
            match self.read_on().await {
                Ok(rows) => self.read.extend(rows),
                // The database may be back before anybody notices.
                Err(error) => tracing::debug!(%error, "a stream of events waits"),
            }
            if self.read.is_empty() {
                tokio::time::sleep(LOOK).await;
            }
        }
    }

    async fn read_on(&self) -> Result<Vec<rows::Event>, miosa_store::Error> {
        let mut db = self.control.store.conn().await?;
        rows::list_after(&mut db, self.tenant, self.after, READ).await
    }
}

fn frame(row: rows::Event) -> sse::Event {
    let event = render(row);
    let data = serde_json::to_string(&event).unwrap_or_default();
    sse::Event::default().id(event.id.to_string()).event(event.kind).data(data)
}

fn render(row: rows::Event) -> wire::Event {
    let data = match row.data {
        Value::Object(data) => data,
        _ => serde_json::Map::new(),
    };
    wire::Event { id: row.id, kind: row.kind, tenant_id: row.tenant, ts: row.at, data }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_whole_words_or_beginnings() {
        let event = |kind: &str| rows::Event {
            id: "0190d3a0-0000-7000-8000-000000000001".parse().unwrap(),
            tenant: "0190d3a0-0000-7000-8000-000000000002".parse().unwrap(),
            kind: kind.to_owned(),
            subject: "s".to_owned(),
            data: Value::Null,
            at: jiff::Timestamp::UNIX_EPOCH,
        };
        for (types, kind, is_wanted) in [
            (None, "runtime.replaced", true),
            (Some(""), "runtime.replaced", true),
            (Some("runtime.*"), "runtime.replaced", true),
            (Some("deployment.live, runtime.*"), "runtime.replaced", true),
            (Some("runtime"), "runtime.replaced", false),
            (Some("deployment.*"), "runtime.replaced", false),
            (Some("runtime.replaced"), "runtime.replaced", true),
        ] {
            let wanted = Wanted { types: types.map(str::to_owned), ..Wanted::default() };
            let filter = Filter::of(&wanted).unwrap();
            assert_eq!(filter.wants(&event(kind)), is_wanted, "{types:?} {kind}");
        }
        let many = Wanted { types: Some("a,".repeat(MAX_TYPES + 1)), ..Wanted::default() };
        assert!(Filter::of(&many).is_err());
    }
}
