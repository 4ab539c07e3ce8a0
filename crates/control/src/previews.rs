//! Previews: URLs onto ports of a sandbox, and who may see them.
//!
//! Promises: a port is public unless a preview or the tenant's policy says otherwise; a token is
//! shown once; when a call that opens or closes a port returns, every edge knows (or a second has
//! passed).

use std::time::Duration;

use miosa_store::{
    preview_tokens::{self as tokens, PreviewToken},
    previews as rows, tenants,
};
use miosa_types::{
    Digest, PreviewId, SandboxId, Secret, TenantId, host,
    link::{self, Entry, Key},
};

use crate::{
    Control, access,
    sandboxes::{self, Error, Sandbox},
};

pub use miosa_store::previews::{Preview, Visibility};

/// Live tokens of one sandbox, at most: each is part of what every edge holds.
pub const MAX_TOKENS: usize = 100;
/// How long an answer waits for edges.
const EDGE_WAIT: Duration = Duration::from_secs(1);

/// What to create.
#[derive(Clone, Debug, Default)]
pub struct New {
    /// Display name.
    pub name: Option<String>,
    /// Port inside.
    pub port: u16,
    /// Who may see it; `None`: as the tenant's policy says.
    pub visibility: Option<Visibility>,
    /// The tenant's own data.
    pub metadata: serde_json::Map<String, serde_json::Value>,
}

/// The URL of a port of a sandbox, with the public port unless that is 443.
pub fn url(control: &Control, sandbox: &Sandbox, port: u16) -> String {
    let host = host::preview(port, &sandbox.slug, &sandbox.preview_domain);
    control.config.domains.url(&host)
}

/// Adds a preview. The sandbox need not be up yet.
pub async fn create(
    control: &Control,
    tenant: TenantId,
    sandbox: SandboxId,
    new: New,
) -> Result<(Sandbox, Preview), Error> {
    let row = sandboxes::get(control, tenant, sandbox).await?;
    let now = control.env.now();
    let mut db = control.store.conn().await?;
    let visibility = match new.visibility {
        Some(visibility) => visibility,
        None => access::default_visibility(tenants::find(&mut db, tenant).await?.as_ref()),
    };
    let preview = Preview {
        id: control.env.id(),
        tenant,
        sandbox,
        name: new.name,
        port: new.port,
        visibility,
        metadata: new.metadata,
        created_at: now,
        updated_at: now,
        deleted_at: None,
    };
    rows::insert(&mut db, &preview).await?;
    drop(db);
    let is_private = preview.visibility == Visibility::Private;
    let wanted = |access: &link::Access| access.is_private(preview.port) || !is_private;
    tell_edges(control, sandbox, wanted).await;
    Ok((row, preview))
}

/// Waits a moment until edges let in whom they shall.
async fn tell_edges(control: &Control, sandbox: SandboxId, wanted: impl Fn(&link::Access) -> bool) {
    control.wakes.routes.notify_one();
    let is_so = |entry: &Entry| matches!(entry, Entry::Sandbox(of) if wanted(&of.access));
    if !control.edges.wait_entry(&Key::Sandbox(sandbox), EDGE_WAIT, is_so).await {
        tracing::debug!(%sandbox, "its access is not at every edge yet");
    }
}

/// What a token shall open.
#[derive(Clone, Copy, Debug)]
pub struct NewToken<'a> {
    /// One preview.
    pub preview: Option<PreviewId>,
    /// One port, if no preview; `None`: every port.
    pub port: Option<u16>,
    /// What it is for: shown, not judged.
    pub scope: &'a str,
    /// How long it is good.
    pub life: Duration,
}

/// Makes a token that opens private ports of a sandbox. Its text is known only now.
pub async fn grant(
    control: &Control,
    tenant: TenantId,
    sandbox: SandboxId,
    new: NewToken<'_>,
) -> Result<(Secret, PreviewToken), Error> {
    let prefix = if new.preview.is_some() { "pv_" } else { "mp_" };
    let text = format!("{prefix}{}", control.env.token(24));
    let now = control.env.now();
    let token = PreviewToken {
        id: control.env.id(),
        tenant,
        sandbox,
        preview: new.preview,
        port: new.port,
        digest: Digest::of(text.as_bytes()),
        prefix: text.chars().take(8).collect(),
        scope: new.scope.to_owned(),
        created_at: now,
        expires_at: now + new.life,
    };
    let mut tx = control.store.begin().await?;
    // Who ended is of no use to anyone; here is where new ones come from.
    tokens::delete_before(&mut tx, now).await?;
    if tokens::of_sandbox(&mut tx, tenant, sandbox, now).await?.len() >= MAX_TOKENS {
        return Err(Error::TooManyTokens { limit: MAX_TOKENS });
    }
    tokens::insert(&mut tx, &token).await?;
    tx.commit().await.map_err(miosa_store::Error::from)?;
    let holds = |access: &link::Access| access.grants.iter().any(|g| g.token == token.digest);
    tell_edges(control, sandbox, holds).await;
    Ok((Secret::new(text), token))
}

/// Tokens of a sandbox that still open something, longest first.
pub async fn grants(
    control: &Control,
    tenant: TenantId,
    sandbox: SandboxId,
) -> Result<Vec<PreviewToken>, Error> {
    let mut db = control.store.conn().await?;
    Ok(tokens::of_sandbox(&mut db, tenant, sandbox, control.env.now()).await?)
}

/// Takes back every token of a preview, and ends what they opened.
pub async fn revoke(
    control: &Control,
    tenant: TenantId,
    sandbox: SandboxId,
    preview: PreviewId,
) -> Result<(), Error> {
    let mut tx = control.store.begin().await?;
    let gone = take_back(control, &mut tx, (tenant, sandbox, preview)).await?;
    tx.commit().await.map_err(miosa_store::Error::from)?;
    tell_edges(control, sandbox, |access| lets_in_none(access, &gone)).await;
    Ok(())
}

/// Takes back every token of a preview; which those were.
async fn take_back(
    control: &Control,
    tx: &mut sqlx::AnyConnection,
    of: (TenantId, SandboxId, PreviewId),
) -> Result<Vec<Digest>, Error> {
    let (tenant, sandbox, preview) = of;
    let now = control.env.now();
    let live = tokens::of_sandbox(tx, tenant, sandbox, now).await?;
    tokens::revoke(tx, of, now).await?;
    Ok(live.into_iter().filter(|t| t.preview == Some(preview)).map(|t| t.digest).collect())
}

fn lets_in_none(access: &link::Access, gone: &[Digest]) -> bool {
    !access.grants.iter().any(|grant| gone.contains(&grant.token))
}

/// Previews of a sandbox, oldest first.
pub async fn list(
    control: &Control,
    tenant: TenantId,
    sandbox: SandboxId,
) -> Result<(Sandbox, Vec<Preview>), Error> {
    let row = sandboxes::get(control, tenant, sandbox).await?;
    let previews = rows::list(&mut *control.store.conn().await?, tenant, sandbox).await?;
    Ok((row, previews))
}

/// One preview.
pub async fn get(
    control: &Control,
    tenant: TenantId,
    sandbox: SandboxId,
    id: PreviewId,
) -> Result<(Sandbox, Preview), Error> {
    let row = sandboxes::get(control, tenant, sandbox).await?;
    let found = rows::get(&mut *control.store.conn().await?, tenant, sandbox, id).await?;
    found.map(|preview| (row, preview)).ok_or_else(|| Error::NotFound { id: id.to_string() })
}

/// Removes a preview; false if there is none.
pub async fn delete(
    control: &Control,
    tenant: TenantId,
    sandbox: SandboxId,
    id: PreviewId,
) -> Result<bool, Error> {
    let now = control.env.now();
    let mut tx = control.store.begin().await?;
    let was_there = rows::delete(&mut tx, (tenant, sandbox, id), now).await?;
    let gone = take_back(control, &mut tx, (tenant, sandbox, id)).await?;
    tx.commit().await.map_err(miosa_store::Error::from)?;
    if was_there {
        tell_edges(control, sandbox, |access| lets_in_none(access, &gone)).await;
    }
    Ok(was_there)
}
