//! Rows of `sandboxes`: what the tenant wants, and what was observed of it.
//!
//! Promises: whatever a caller of the API can reach takes a [`TenantId`]; the queries without one
//! are for reconcilers. Each function is one statement. A change that somebody else was faster
//! with is [`Error::Stale`].

use std::collections::BTreeMap;

use jiff::Timestamp;
use miosa_types::{Digest, ProjectId, SandboxId, Size, Slug, TenantId, WorkloadId, WorkspaceId};
use sqlx::{AnyConnection, Row as _, any::AnyRow};

use crate::{Error, List, row};

const TABLE: &str = "sandboxes";

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
    /// Only those of this workspace.
    pub workspace: Option<WorkspaceId>,
    /// Only those of this project.
    pub project: Option<ProjectId>,
    /// Only those with these external ids, where given.
    pub external: External,
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
        .bind(row::to_json(&new.env))
        .bind(row::to_json(&new.metadata))
        .bind(row::to_json(&new.tags))
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
    result.map_err(|error| row::taken(error, new.slug.as_str()))?;
    Ok(())
}

const GET: &str = "select * from sandboxes where tenant_id = $1 and id = $2";

/// One sandbox of a tenant.
pub async fn get(
    db: &mut AnyConnection,
    tenant: TenantId,
    id: SandboxId,
) -> Result<Option<Sandbox>, Error> {
    let row =
        sqlx::query(GET).bind(tenant.to_string()).bind(id.to_string()).fetch_optional(db).await?;
    row.map(|row| read(&row)).transpose()
}

const BY_NAME: &str = "
    select * from sandboxes
    where tenant_id = $1 and name = $2 and desired = 'running'
    order by case when ended_at_ms is null then 0 else 1 end, id desc limit 1";

/// The newest wanted sandbox of that name; one that ended by itself only if no other is left.
pub async fn by_name(
    db: &mut AnyConnection,
    tenant: TenantId,
    name: &str,
) -> Result<Option<Sandbox>, Error> {
    let row = sqlx::query(BY_NAME)
        .bind(tenant.to_string())
        .bind(name.to_owned())
        .fetch_optional(db)
        .await?;
    row.map(|row| read(&row)).transpose()
}

/// A tenant's sandboxes, newest first.
pub fn of_tenant(tenant: TenantId, filter: &Filter) -> List<Sandbox> {
    const ROWS: &str = "
    from sandboxes
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
        and ($7 is null or workspace_id = $7)
        and ($8 is null or project_id = $8)";
    List::of(tenant, ROWS, read, |sandbox| sandbox.id.to_string())
        .newest_first()
        .bind(filter.state.map(|state| state.as_str().to_owned()))
        .bind(filter.tag.as_deref().map(tag_pattern))
        .bind(filter.external.workspace.clone())
        .bind(filter.external.project.clone())
        .bind(filter.external.user.clone())
        .bind(filter.workspace.map(|id| id.to_string()))
        .bind(filter.project.map(|id| id.to_string()))
}

/// A pattern for `like` that finds `tag` in a JSON array of texts.
fn tag_pattern(tag: &str) -> String {
    let text = row::to_json(&tag);
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

/// Writes every field that can change, if the row is still at `sandbox.generation`;
/// [`Error::Stale`] otherwise. The generation is raised on success.
pub async fn update(
    db: &mut AnyConnection,
    sandbox: &mut Sandbox,
    now: Timestamp,
) -> Result<(), Error> {
    let done = sqlx::query(UPDATE)
        .bind(sandbox.id.to_string())
        .bind(sandbox.generation)
        .bind(sandbox.name.clone())
        .bind(row::to_json(&sandbox.metadata))
        .bind(row::to_json(&sandbox.tags))
        .bind(i64::from(sandbox.timeout_s))
        .bind(i64::from(sandbox.is_always_on))
        .bind(i64::from(sandbox.is_persistent))
        .bind(sandbox.expires_at.map(Timestamp::as_millisecond))
        .bind(sandbox.desired.as_str())
        .bind(sandbox.ready_at.map(Timestamp::as_millisecond))
        .bind(sandbox.ended_at.map(Timestamp::as_millisecond))
        .bind(sandbox.end_reason.as_deref().map(row::said))
        .bind(sandbox.destroyed_at.map(Timestamp::as_millisecond))
        .bind(sandbox.workload.to_string())
        .bind(sandbox.revision.cast_signed())
        .bind(sandbox.boot_path.as_str())
        .bind(now.as_millisecond())
        .execute(db)
        .await?;
    if done.rows_affected() == 0 {
        return Err(Error::Stale { what: format!("sandbox {}", sandbox.id) });
    }
    sandbox.generation += 1;
    sandbox.updated_at = now;
    Ok(())
}

fn read(row: &AnyRow) -> Result<Sandbox, Error> {
    let text = |column| row.try_get::<String, _>(column);
    let maybe = |column| row.try_get::<Option<String>, _>(column);
    let number = |column| row.try_get::<i64, _>(column);
    let time = |column| row::maybe_time(TABLE, row.try_get(column)?);
    let slug = Slug::parse(&text("slug")?).map_err(|error| row::corrupt(TABLE, &error))?;
    Ok(Sandbox {
        id: row::id(TABLE, &text("id")?)?,
        tenant: row::id(TABLE, &text("tenant_id")?)?,
        workspace: row::id(TABLE, &text("workspace_id")?)?,
        project: row::id(TABLE, &text("project_id")?)?,
        name: maybe("name")?,
        slug,
        preview_domain: text("preview_domain")?,
        template: text("template")?,
        template_digest: digest(TABLE, &text("template_digest")?)?,
        size: size(TABLE, row)?,
        workload: row::id(TABLE, &text("workload_id")?)?,
        revision: row::number(TABLE, number("revision")?)?,
        boot_path: word(BootPath::parse, &text("boot_path")?)?,
        env: row::json(TABLE, &text("env")?)?,
        metadata: row::json(TABLE, &text("metadata")?)?,
        tags: row::json(TABLE, &text("tags")?)?,
        external: External {
            workspace: maybe("external_workspace_id")?,
            project: maybe("external_project_id")?,
            user: maybe("external_user_id")?,
        },
        timeout_s: row::number(TABLE, number("timeout_s")?)?,
        is_always_on: number("is_always_on")? != 0,
        is_persistent: number("is_persistent")? != 0,
        expires_at: time("expires_at_ms")?,
        desired: word(Desired::parse, &text("desired")?)?,
        ready_at: time("ready_at_ms")?,
        ended_at: time("ended_at_ms")?,
        end_reason: maybe("end_reason")?,
        generation: number("generation")?,
        created_at: row::time(TABLE, number("created_at_ms")?)?,
        updated_at: row::time(TABLE, number("updated_at_ms")?)?,
        destroyed_at: time("destroyed_at_ms")?,
    })
}

fn word<T>(parse: fn(&str) -> Option<T>, text: &str) -> Result<T, Error> {
    parse(text).ok_or_else(|| row::corrupt(TABLE, &format_args!("unknown word `{text}`")))
}

/// Reads a digest column.
pub(crate) fn digest(table: &'static str, text: &str) -> Result<Digest, Error> {
    text.parse().map_err(|error: miosa_types::digest::DigestError| row::corrupt(table, &error))
}

/// Reads the three columns of a size.
pub(crate) fn size(table: &'static str, row: &AnyRow) -> Result<Size, Error> {
    Ok(Size {
        memory_mib: row::number(table, row.try_get("memory_mib")?)?,
        cpu_millis: row::number(table, row.try_get("cpu_millis")?)?,
        disk_mib: row::number(table, row.try_get("disk_mib")?)?,
    })
}
