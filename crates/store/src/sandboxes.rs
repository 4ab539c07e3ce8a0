//! Rows of `sandboxes`: what the tenant wants, and what was observed of it.
//!
//! Promises: whatever a caller of the API can reach takes a [`TenantId`]; the queries without one
//! are for reconcilers. Each function is one statement. A change that somebody else was faster
//! with is [`Error::Stale`].

use std::collections::BTreeMap;

use jiff::Timestamp;
use miosa_types::{
    Digest, ProjectId, SandboxId, Size, Slug, TenantId, WorkloadId, WorkspaceId,
};
use serde::de::DeserializeOwned;
use sqlx::{AnyConnection, Row as _, any::AnyRow};

use crate::Error;

/// One sandbox.
#[derive(Clone, Debug, PartialEq)]
pub struct Sandbox {
    /// Its id.
    pub id: SandboxId,
    /// Whose it is.
    pub tenant: TenantId,
    /// In which workspace.
    pub workspace: WorkspaceId,
    /// In which project.
    pub project: ProjectId,
    /// Name that the tenant gave it; several may have the same.
    pub name: Option<String>,
    /// Its label in preview hosts, and its host name inside.
    pub slug: Slug,
    /// Domain of its preview hosts.
    pub preview_domain: String,
    /// Name of its template.
    pub template: String,
    /// What that name meant at create.
    pub template_digest: Digest,
    /// Its limits.
    pub size: Size,
    /// The workload that is this sandbox.
    pub workload: WorkloadId,
    /// Revision of that workload.
    pub revision: u64,
    /// Whether it came from the warm pool.
    pub boot_path: BootPath,
    /// Environment of its processes.
    pub env: BTreeMap<String, String>,
    /// The tenant's own data.
    pub metadata: serde_json::Map<String, serde_json::Value>,
    /// The tenant's own words for it.
    pub tags: Vec<String>,
    /// The tenant's own ids.
    pub external: External,
    /// Seconds that it may live after create or extension.
    pub timeout_s: u32,
    /// Whether its timeout never runs out.
    pub is_always_on: bool,
    /// Whether the tenant asked to keep its disk.
    pub is_persistent: bool,
    /// When its timeout runs out.
    pub expires_at: Option<Timestamp>,
    /// Intent.
    pub desired: Desired,
    /// Observation: when the guest first took commands.
    pub ready_at: Option<Timestamp>,
    /// Observation: when it was seen to have ended by itself.
    pub ended_at: Option<Timestamp>,
    /// Why it ended.
    pub end_reason: Option<String>,
    /// Raised with each change.
    pub generation: i64,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// Last change of this row.
    pub updated_at: Timestamp,
    /// Observation: when nothing of it was left.
    pub destroyed_at: Option<Timestamp>,
}

/// Opaque ids of the tenant; they authorize nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct External {
    /// The tenant's customer.
    pub workspace: Option<String>,
    /// That customer's project.
    pub project: Option<String>,
    /// That customer's user.
    pub user: Option<String>,
}

/// What the tenant wants of a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Desired {
    /// It shall run.
    Running,
    /// It shall be gone.
    Destroyed,
}

/// How a sandbox came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootPath {
    /// A slot of the warm pool was claimed.
    Warm,
    /// Started for this sandbox.
    Cold,
}

/// A sandbox's state, as the API names it; a function of intent and observation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Wanted, not yet seen ready.
    Creating,
    /// Seen ready, not seen ended.
    Running,
    /// It ended although it is wanted.
    Error,
    /// It is not wanted, and something of it may be left.
    Destroying,
    /// Nothing of it is left.
    Destroyed,
}

/// Which sandboxes to list, newest first.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only those in this state; `None`: all but `destroying` and `destroyed`.
    pub state: Option<State>,
    /// Only those that carry this tag.
    pub tag: Option<String>,
    /// Only those with these external ids, where given.
    pub external: External,
    /// Only those older than this one.
    pub before: Option<SandboxId>,
    /// At most so many.
    pub limit: u32,
    /// Skip so many.
    pub offset: u32,
}

impl Sandbox {
    /// Derives the state.
    pub const fn state(&self) -> State {
        match self.desired {
            Desired::Destroyed if self.destroyed_at.is_some() => State::Destroyed,
            Desired::Destroyed => State::Destroying,
            Desired::Running if self.ended_at.is_some() => State::Error,
            Desired::Running if self.ready_at.is_some() => State::Running,
            Desired::Running => State::Creating,
        }
    }
}

macro_rules! words {
    ($type:ident: $($variant:ident = $word:literal),*) => {
        impl $type {
            /// The word in the API and in the database.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }

            /// The value of that word.
            pub fn parse(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

words!(Desired: Running = "running", Destroyed = "destroyed");
words!(BootPath: Warm = "warm", Cold = "cold");
words!(State: Creating = "creating", Running = "running", Error = "error",
       Destroying = "destroying", Destroyed = "destroyed");

const INSERT: &str = "
    insert into sandboxes (id, tenant_id, workspace_id, project_id, name, slug, preview_domain,
        template, template_digest, memory_mib, cpu_millis, disk_mib, workload_id, revision,
        boot_path, env, metadata, tags, external_workspace_id, external_project_id,
        external_user_id, timeout_s, is_always_on, is_persistent, expires_at_ms, desired,
        generation, created_at_ms, updated_at_ms)
    values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19,
        $20, $21, $22, $23, $24, $25, $26, 1, $27, $27)";

/// Adds a sandbox. A slug that another wanted sandbox of that domain has is [`Error::Taken`].
pub async fn insert(db: &mut AnyConnection, new: &Sandbox) -> Result<(), Error> {
    let result = sqlx::query(INSERT)
        .bind(new.id.to_string())
        .bind(new.tenant.to_string())
        .bind(new.workspace.to_string())
        .bind(new.project.to_string())
        .bind(new.name.clone())
        .bind(new.slug.to_string())
        .bind(new.preview_domain.clone())
        .bind(new.template.clone())
        .bind(new.template_digest.to_string())
        .bind(i64::from(new.size.memory_mib))
        .bind(i64::from(new.size.cpu_millis))
        .bind(i64::from(new.size.disk_mib))
        .bind(new.workload.to_string())
        .bind(new.revision.cast_signed())
        .bind(new.boot_path.as_str())
        .bind(json(&new.env))
        .bind(json(&new.metadata))
        .bind(json(&new.tags))
        .bind(new.external.workspace.clone())
        .bind(new.external.project.clone())
        .bind(new.external.user.clone())
        .bind(i64::from(new.timeout_s))
        .bind(i64::from(new.is_always_on))
        .bind(i64::from(new.is_persistent))
        .bind(new.expires_at.map(Timestamp::as_millisecond))
        .bind(new.desired.as_str())
        .bind(new.created_at.as_millisecond())
        .execute(db)
        .await;
    match result {
        Ok(_) => Ok(()),
        Err(sqlx::Error::Database(error)) if error.is_unique_violation() => {
            Err(Error::Taken { name: new.slug.to_string() })
        }
        Err(error) => Err(error.into()),
    }
}

const GET: &str = "select * from sandboxes where tenant_id = $1 and id = $2";

/// One sandbox of a tenant.
pub async fn get(
    db: &mut AnyConnection,
    tenant: TenantId,
    id: SandboxId,
) -> Result<Option<Sandbox>, Error> {
    let row = sqlx::query(GET)
        .bind(tenant.to_string())
        .bind(id.to_string())
        .fetch_optional(db)
        .await?;
    row.map(|row| read(&row)).transpose()
}

const BY_NAME: &str = "
    select * from sandboxes
    where tenant_id = $1 and name = $2 and desired = 'running'
    order by id desc limit 1";

/// The newest wanted sandbox of that name.
pub async fn by_name(
    db: &mut AnyConnection,
    tenant: TenantId,
    name: &str,
) -> Result<Option<Sandbox>, Error> {
    let row =
        sqlx::query(BY_NAME).bind(tenant.to_string()).bind(name.to_owned()).fetch_optional(db).await?;
    row.map(|row| read(&row)).transpose()
}

const LIST: &str = "
    select * from sandboxes
    where tenant_id = $1
        and case
            when $2 is null then case when desired = 'running' then 1 else 0 end
            when desired = 'destroyed' and destroyed_at_ms is not null
                then case when $2 = 'destroyed' then 1 else 0 end
            when desired = 'destroyed' then case when $2 = 'destroying' then 1 else 0 end
            when ended_at_ms is not null then case when $2 = 'error' then 1 else 0 end
            when ready_at_ms is not null then case when $2 = 'running' then 1 else 0 end
            else case when $2 = 'creating' then 1 else 0 end
        end = 1
        and ($3 is null or tags like $3 escape '\\')
        and ($4 is null or external_workspace_id = $4)
        and ($5 is null or external_project_id = $5)
        and ($6 is null or external_user_id = $6)
        and ($7 is null or id < $7)
    order by id desc limit $8 offset $9";

/// A tenant's sandboxes, newest first.
pub async fn list(
    db: &mut AnyConnection,
    tenant: TenantId,
    filter: &Filter,
) -> Result<Vec<Sandbox>, Error> {
    let rows = sqlx::query(LIST)
        .bind(tenant.to_string())
        .bind(filter.state.map(State::as_str))
        .bind(filter.tag.as_deref().map(tag_pattern))
        .bind(filter.external.workspace.clone())
        .bind(filter.external.project.clone())
        .bind(filter.external.user.clone())
        .bind(filter.before.map(|id| id.to_string()))
        .bind(i64::from(filter.limit))
        .bind(i64::from(filter.offset))
        .fetch_all(db)
        .await?;
    rows.iter().map(read).collect()
}

/// A pattern for `like` that finds `tag` in a JSON array of texts.
fn tag_pattern(tag: &str) -> String {
    let text = json(&tag);
    let mut pattern = String::from("%");
    for c in text.chars() {
        if matches!(c, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern.push('%');
    pattern
}

const UNFINISHED: &str = "
    select * from sandboxes where destroyed_at_ms is null and id > $1 order by id limit $2";

/// For reconcilers: sandboxes of all tenants of which something is or may be left, a page after
/// `after` in the order of their ids.
pub async fn unfinished(
    db: &mut AnyConnection,
    after: Option<SandboxId>,
    limit: u32,
) -> Result<Vec<Sandbox>, Error> {
    let rows = sqlx::query(UNFINISHED)
        .bind(after.map(|id| id.to_string()).unwrap_or_default())
        .bind(i64::from(limit))
        .fetch_all(db)
        .await?;
    rows.iter().map(read).collect()
}

const UPDATE: &str = "
    update sandboxes set name = $3, metadata = $4, tags = $5, timeout_s = $6, is_always_on = $7,
        is_persistent = $8, expires_at_ms = $9, desired = $10, ready_at_ms = $11,
        ended_at_ms = $12, end_reason = $13, destroyed_at_ms = $14, workload_id = $15,
        revision = $16, boot_path = $17, updated_at_ms = $18, generation = generation + 1
    where id = $1 and generation = $2";

/// Writes every field of `row` that can change, if the row is still at `row.generation`;
/// [`Error::Stale`] otherwise. `row.generation` is raised on success.
pub async fn update(
    db: &mut AnyConnection,
    row: &mut Sandbox,
    now: Timestamp,
) -> Result<(), Error> {
    let done = sqlx::query(UPDATE)
        .bind(row.id.to_string())
        .bind(row.generation)
        .bind(row.name.clone())
        .bind(json(&row.metadata))
        .bind(json(&row.tags))
        .bind(i64::from(row.timeout_s))
        .bind(i64::from(row.is_always_on))
        .bind(i64::from(row.is_persistent))
        .bind(row.expires_at.map(Timestamp::as_millisecond))
        .bind(row.desired.as_str())
        .bind(row.ready_at.map(Timestamp::as_millisecond))
        .bind(row.ended_at.map(Timestamp::as_millisecond))
        .bind(row.end_reason.clone())
        .bind(row.destroyed_at.map(Timestamp::as_millisecond))
        .bind(row.workload.to_string())
        .bind(row.revision.cast_signed())
        .bind(row.boot_path.as_str())
        .bind(now.as_millisecond())
        .execute(db)
        .await?;
    if done.rows_affected() == 0 {
        return Err(Error::Stale { what: format!("sandbox {}", row.id) });
    }
    row.generation += 1;
    row.updated_at = now;
    Ok(())
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("maps and lists of text are always JSON")
}

fn read(row: &AnyRow) -> Result<Sandbox, Error> {
    let text = |column| row.try_get::<String, _>(column);
    let maybe = |column| row.try_get::<Option<String>, _>(column);
    Ok(Sandbox {
        id: parsed(&text("id")?)?,
        tenant: parsed(&text("tenant_id")?)?,
        workspace: parsed(&text("workspace_id")?)?,
        project: parsed(&text("project_id")?)?,
        name: maybe("name")?,
        slug: parsed(&text("slug")?)?,
        preview_domain: text("preview_domain")?,
        template: text("template")?,
        template_digest: parsed(&text("template_digest")?)?,
        size: Size {
            memory_mib: number(row, "memory_mib")?,
            cpu_millis: number(row, "cpu_millis")?,
            disk_mib: number(row, "disk_mib")?,
        },
        workload: parsed(&text("workload_id")?)?,
        revision: number(row, "revision")?,
        boot_path: word(BootPath::parse, &text("boot_path")?)?,
        env: from_json(&text("env")?)?,
        metadata: from_json(&text("metadata")?)?,
        tags: from_json(&text("tags")?)?,
        external: External {
            workspace: maybe("external_workspace_id")?,
            project: maybe("external_project_id")?,
            user: maybe("external_user_id")?,
        },
        timeout_s: number(row, "timeout_s")?,
        is_always_on: row.try_get::<i64, _>("is_always_on")? != 0,
        is_persistent: row.try_get::<i64, _>("is_persistent")? != 0,
        expires_at: maybe_time(row, "expires_at_ms")?,
        desired: word(Desired::parse, &text("desired")?)?,
        ready_at: maybe_time(row, "ready_at_ms")?,
        ended_at: maybe_time(row, "ended_at_ms")?,
        end_reason: maybe("end_reason")?,
        generation: row.try_get("generation")?,
        created_at: time(row.try_get("created_at_ms")?)?,
        updated_at: time(row.try_get("updated_at_ms")?)?,
        destroyed_at: maybe_time(row, "destroyed_at_ms")?,
    })
}

fn corrupt(why: impl std::fmt::Display) -> Error {
    Error::Corrupt { table: "sandboxes", why: why.to_string() }
}

fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, Error> {
    text.parse().map_err(corrupt)
}

fn word<T>(parse: fn(&str) -> Option<T>, text: &str) -> Result<T, Error> {
    parse(text).ok_or_else(|| corrupt(format_args!("unknown word `{text}`")))
}

fn from_json<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    serde_json::from_str(text).map_err(corrupt)
}

fn number<T: TryFrom<i64>>(row: &AnyRow, column: &str) -> Result<T, Error> {
    let value: i64 = row.try_get(column)?;
    T::try_from(value).map_err(|_| corrupt(format_args!("{column} is {value}")))
}

fn time(ms: i64) -> Result<Timestamp, Error> {
    Timestamp::from_millisecond(ms).map_err(corrupt)
}

fn maybe_time(row: &AnyRow, column: &str) -> Result<Option<Timestamp>, Error> {
    row.try_get::<Option<i64>, _>(column)?.map(time).transpose()
}
