//! Previews: URLs onto ports of a sandbox.
//!
//! Any port of a running sandbox can be reached by its preview host; a preview row gives one an
//! id and a name. All are public: the host cannot be guessed.

use miosa_store::previews as rows;
use miosa_types::{PreviewId, SandboxId, TenantId, host};

use crate::{
    Control,
    sandboxes::{self, Error, Sandbox},
};

pub use miosa_store::previews::Preview;

/// What to create.
#[derive(Clone, Debug, Default)]
pub struct New {
    /// Display name.
    pub name: Option<String>,
    /// Port inside.
    pub port: u16,
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
    let preview = Preview {
        id: control.env.id(),
        tenant,
        sandbox,
        name: new.name,
        port: new.port,
        metadata: new.metadata,
        created_at: now,
        updated_at: now,
    };
    rows::insert(&mut *control.store.conn().await?, &preview).await?;
    Ok((row, preview))
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
    let mut db = control.store.conn().await?;
    Ok(rows::delete(&mut db, (tenant, sandbox, id), now).await?)
}
