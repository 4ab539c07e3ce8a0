//! First start on an empty data folder: installation id, tenant `default`, the operator's key.
//!
//! Promises: safe to run at every start; the operator's key file and its row always agree, so
//! that `ready.json` opens the API.

use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _, path::Path};

use anyhow::Context as _;
use miosa_api::auth;
use miosa_store::{Store, api_keys, installations, tenants};
use miosa_types::{Env, InstallationId, Slug, TenantId, host::Domains};
use sqlx::AnyConnection;

use crate::settings::Settings;

/// Slug of the tenant that the operator's key acts for.
const DEFAULT_TENANT: &str = "default";

/// Makes what is missing and returns the installation's id.
pub(crate) async fn run(
    store: &Store,
    env: &Env,
    settings: &Settings,
) -> anyhow::Result<InstallationId> {
    let mut tx = store.begin().await?;
    let installation = installations::find_or_insert(&mut tx, env.id(), env.now()).await?;
    let file = settings.installation_file();
    // The workloads on this host would be nobody's.
    anyhow::ensure!(
        read_installation(&file)?.is_none_or(|known| known == installation),
        "this data folder belongs to another database: give that one with --database, or run \
         `miosa down` and remove {}",
        file.display()
    );
    let tenant = default_tenant(&mut tx, env, &settings.domains()).await?;
    operator_key(&mut tx, env, tenant, &settings.operator_key_file()).await?;
    tx.commit().await?;
    // After the commit: a note of an installation that never was would bar the next start.
    // Not at each start: a full disk would keep control from it.
    if read_installation(&file).ok().flatten() != Some(installation) {
        write_secret(&file, &installation.to_string())?;
    }
    Ok(installation)
}

/// The installation that a data folder belongs to, if that was noted.
pub(crate) fn read_installation(file: &Path) -> anyhow::Result<Option<InstallationId>> {
    match fs_err::read_to_string(file) {
        Ok(text) => Ok(Some(text.trim().parse().with_context(|| file.display().to_string())?)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn default_tenant(
    db: &mut AnyConnection,
    env: &Env,
    domains: &Domains,
) -> anyhow::Result<TenantId> {
    if let Some(tenant) = tenants::find_by_slug(db, DEFAULT_TENANT).await? {
        return Ok(tenant.id);
    }
    let slug = Slug::parse(DEFAULT_TENANT).context("the default tenant's slug")?;
    let tenant = tenants::Tenant {
        id: env.id(),
        name: "Default".to_owned(),
        deployment_domain: domains.default_deployment_domain(slug.as_str()),
        slug,
        preview_domain: None,
        console_domain: None,
        branding: None,
        settings: serde_json::Map::new(),
        generation: 1,
        created_at: env.now(),
        updated_at: env.now(),
    };
    tenants::insert(db, &tenant).await?;
    Ok(tenant.id)
}

async fn operator_key(
    db: &mut AnyConnection,
    env: &Env,
    tenant: TenantId,
    file: &Path,
) -> anyhow::Result<()> {
    if let Ok(key) = fs_err::read_to_string(file)
        && let Some(row) = api_keys::find_by_hash(db, &auth::hash(key.trim())).await?
        && row.is_usable(env.now())
    {
        return Ok(());
    }
    let new = auth::new_key(env, tenant, "operator", true);
    api_keys::insert(db, &new.row).await?;
    api_keys::revoke_other_operators(db, new.row.id, env.now()).await?;
    write_secret(file, new.key.expose())
}

/// Writes by rename, mode 0600.
fn write_secret(file: &Path, text: &str) -> anyhow::Result<()> {
    let fresh = file.with_extension("new");
    let mut out = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)
        .with_context(|| format!("cannot write {}", fresh.display()))?;
    out.write_all(text.as_bytes())?;
    out.sync_all()?;
    fs_err::rename(&fresh, file)?;
    Ok(())
}
