//! `miosa status`: the proof of the mission on a live system.
//!
//! Promises: it asks the platform, so that what it shows was observed; what is not known is shown
//! as unknown and not as zero; the JSON is what the API gives, with `volumes` added, which only
//! this machine can tell.

mod render;

use std::path::Path;

use anyhow::Context as _;
use miosa_types::Env;
use serde_json::{Value, json};

use super::{Target, block_on, client};
use crate::logging::result;

/// Arguments of the command.
pub(crate) type Arguments = Target;

pub(crate) fn run(target: &Arguments) -> anyhow::Result<()> {
    let mut status: Value = block_on(async {
        let answer = client(target)?.get("/api/v1/admin/status").await;
        answer.with_context(|| {
            format!("the platform on {} does not tell its status", target.data_dir.display())
        })
    })?;
    let mut data = status["data"].take();
    data["volumes"] = volumes(&target.data_dir);
    if target.json {
        result(&data.to_string());
    } else {
        result(render::page(&data, Env::system().now()).trim_end());
    }
    Ok(())
}

/// How full the pool of volumes is, and the disk below it.
fn volumes(data_dir: &Path) -> Value {
    let pool = data_dir.join("pool");
    let (pool, disk) = (space(&pool), space(data_dir));
    json!({ "pool": pool, "disk": disk })
}

/// Bytes of the file system that `path` is on.
fn space(path: &Path) -> Option<Value> {
    let seen = rustix::fs::statvfs(path).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(seen.f_frsize);
    let used = seen.f_blocks.saturating_sub(seen.f_bfree);
    Some(json!({
        "total_bytes": bytes(seen.f_blocks),
        "used_bytes": bytes(used),
        "free_bytes": bytes(seen.f_bavail),
    }))
}
