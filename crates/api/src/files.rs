//! Files of a sandbox: `/fs/*`, and the older `/files/*`.

use std::collections::BTreeMap;

use axum::{
    Router,
    body::Body,
    extract::{DefaultBodyLimit, State},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http::{HeaderValue, StatusCode, header};
use miosa_control::{Control, sandboxes};
use miosa_types::{
    SandboxId,
    guest::{ByteStream, Endpoint, FileInfo, FileType},
};
use miosa_wire::{Data, files as wire};
use serde::Deserialize;

use crate::{
    AppState, Caller, Error, Json, Path, Query,
    error::FILES_AWAY,
    sandboxes::{guest_error, time},
};

/// Longest body of a call that carries files, in bytes; base64 makes 3 bytes to 4.
const MAX_BODY: usize = 128 * 1024 * 1024;
/// Most files of one call.
const MAX_FILES: usize = 1000;
/// Deepest listing.
const MAX_DEPTH: u32 = 20;
/// Longest path in bytes (`PATH_MAX`).
const MAX_PATH: usize = 4095;
/// What relative paths begin at.
const WORKDIR: &str = "/workspace";

/// Routes below `/api/v1`.
pub fn routes() -> Router<AppState> {
    let with_files = Router::new()
        .route("/sandboxes/{id}/fs/write", post(write))
        .route("/sandboxes/{id}/fs/write-many", post(write_many))
        .route("/sandboxes/{id}/files/write-many", post(write_many))
        .route("/sandboxes/{id}/files", post(write_legacy).get(list).delete(remove_query))
        .layer(DefaultBodyLimit::max(MAX_BODY));
    Router::new()
        .route("/sandboxes/{id}/fs/download", get(download))
        .route("/sandboxes/{id}/fs/list", get(list))
        .route("/sandboxes/{id}/fs/stat", post(stat))
        .route("/sandboxes/{id}/fs/mkdir", post(make_dir))
        .route("/sandboxes/{id}/fs/remove", post(remove))
        .route("/sandboxes/{id}/fs/move", post(rename))
        .route("/sandboxes/{id}/files/stat", post(stat))
        .route("/sandboxes/{id}/files/tree", get(tree))
        .route("/sandboxes/{id}/files/{*path}", get(download_legacy))
        .merge(with_files)
}

/// Routes whose bodies are passed on as they come.
pub fn streamed() -> Router<AppState> {
    Router::new().route("/sandboxes/{id}/fs/upload", axum::routing::put(upload).post(upload))
}

async fn enter(state: &AppState, caller: &Caller, id: SandboxId) -> Result<Endpoint, Error> {
    let (_, endpoint) = sandboxes::enter(&state.control, caller.tenant, id).await?;
    Ok(endpoint)
}

/// An absolute path.
fn absolute(path: &str) -> Result<String, Error> {
    let refuse = |why: &str| {
        Err(Error::BadRequest { code: "INVALID_PATH", message: format!("`path` {why}") })
    };
    if path.is_empty() {
        return refuse("must not be empty");
    }
    if path.len() > MAX_PATH {
        return refuse("is too long");
    }
    if path.contains('\0') {
        return refuse("must not hold a NUL character");
    }
    if path.starts_with('/') {
        return Ok(path.to_owned());
    }
    if leaves(path) {
        return refuse("leaves the working folder; an absolute path may name any place");
    }
    Ok(format!("{WORKDIR}/{path}"))
}

/// Whether a relative path goes above where it begins, at any point.
fn leaves(path: &str) -> bool {
    let mut depth = 0_usize;
    path.split('/').any(|part| match part {
        "" | "." => false,
        ".." if depth == 0 => true,
        ".." => {
            depth -= 1;
            false
        }
        _ => {
            depth += 1;
            false
        }
    })
}

fn content(file: &wire::Write, is_legacy: bool) -> Result<Bytes, Error> {
    let decode = |text: &str| {
        STANDARD.decode(text).map(Bytes::from).map_err(|error| Error::Invalid {
            field: "content_base64",
            message: format!("it is no base64: {error}"),
        })
    };
    match (&file.content_base64, &file.content) {
        (Some(text), _) => decode(text),
        (None, Some(text)) if is_legacy => decode(text),
        (None, Some(text)) => Ok(Bytes::from(text.clone())),
        (None, None) => Err(Error::Invalid {
            field: "content_base64",
            message: "`content_base64` or `content` is missing".to_owned(),
        }),
    }
}

async fn put(control: &Control, to: &Endpoint, path: &str, bytes: Bytes) -> Result<(), Error> {
    let body: ByteStream = Box::pin(stream::once(async move { Ok(bytes) }));
    control.guest.write(to, path, body).await.map_err(guest_error)
}

async fn write(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<SandboxId>,
    Json(body): Json<wire::Write>,
) -> Result<(StatusCode, Json<Data<wire::Saved>>), Error> {
    write_one(&state, &caller, id, &body, false).await
}

async fn write_legacy(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<SandboxId>,
    Json(body): Json<wire::Write>,
) -> Result<(StatusCode, Json<Data<wire::Saved>>), Error> {
    write_one(&state, &caller, id, &body, true).await
}

async fn write_one(
    state: &AppState,
    caller: &Caller,
    id: SandboxId,
    body: &wire::Write,
    is_legacy: bool,
) -> Result<(StatusCode, Json<Data<wire::Saved>>), Error> {
    let (path, bytes) = (absolute(&body.path)?, content(body, is_legacy)?);
    let endpoint = enter(state, caller, id).await?;
    let size = bytes.len();
    put(&state.control, &endpoint, &path, bytes).await?;
    let data = wire::Saved { path, size: Some(size) };
    Ok((StatusCode::CREATED, Json(Data::new(data))))
}

/// Writes each file by itself: one that fails does not keep the others from being written.
async fn write_many(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<SandboxId>,
    Json(body): Json<wire::WriteMany>,
) -> Result<Json<Data<wire::Written>>, Error> {
    if body.files.len() > MAX_FILES {
        let message = format!("at most {MAX_FILES} files may be written at once");
        return Err(Error::Invalid { field: "files", message });
    }
    let endpoint = enter(&state, &caller, id).await?;
    let mut result = wire::Written::default();
    for file in body.files {
        let outcome = async {
            let (path, bytes) = (absolute(&file.path)?, content(&file, false)?);
            put(&state.control, &endpoint, &path, bytes).await
        };
        match outcome.await {
            Ok(()) => result.written.push(file.path),
            Err(error) => {
                result.failed.push(wire::Failed { path: file.path, error: error.to_string() });
            }
        }
    }
    Ok(Json(Data::new(result)))
}

#[derive(Debug, Deserialize)]
struct PathQuery {
    path: String,
}

/// The body as it comes is the content; it is never held as a whole.
async fn upload(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<SandboxId>,
    Query(query): Query<PathQuery>,
    body: Body,
) -> Result<(StatusCode, Json<Data<wire::Saved>>), Error> {
    let path = absolute(&query.path)?;
    let endpoint = enter(&state, &caller, id).await?;
    let body: ByteStream = Box::pin(body.into_data_stream().map_err(std::io::Error::other));
    state.control.guest.write(&endpoint, &path, body).await.map_err(guest_error)?;
    let data = wire::Saved { path, size: None };
    Ok((StatusCode::CREATED, Json(Data::new(data))))
}

async fn download(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<SandboxId>,
    Query(query): Query<PathQuery>,
) -> Result<Response, Error> {
    send(&state, &caller, id, &query.path).await
}

#[derive(Debug, Deserialize)]
struct Legacy {
    id: SandboxId,
    path: String,
}

/// The path in the URL has lost its leading slash.
async fn download_legacy(
    State(state): State<AppState>,
    caller: Caller,
    Path(at): Path<Legacy>,
) -> Result<Response, Error> {
    send(&state, &caller, at.id, &format!("/{}", at.path)).await
}

async fn send(
    state: &AppState,
    caller: &Caller,
    id: SandboxId,
    path: &str,
) -> Result<Response, Error> {
    let path = absolute(path)?;
    let endpoint = enter(state, caller, id).await?;
    let mut bytes = state.control.guest.read(&endpoint, &path).await.map_err(guest_error)?;
    // The first piece tells whether it can be read at all, while the status can still say so.
    let first = bytes.next().await.transpose().map_err(|error| Error::Busy {
        code: FILES_AWAY,
        message: format!("the file could not be read: {error}"),
        retry_after_ms: 500,
    })?;
    let body = Body::from_stream(stream::iter(first.map(Ok)).chain(bytes));
    let kind = HeaderValue::from_static("application/octet-stream");
    Ok(([(header::CONTENT_TYPE, kind)], body).into_response())
}

async fn list(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<SandboxId>,
    Query(query): Query<wire::ListQuery>,
) -> Result<Json<Data<wire::Listing>>, Error> {
    let path = absolute(query.path.as_deref().unwrap_or(WORKDIR))?;
    let depth = query.depth.unwrap_or(1).clamp(1, MAX_DEPTH);
    let endpoint = enter(&state, &caller, id).await?;
    let found = state.control.guest.list(&endpoint, &path, depth).await.map_err(guest_error)?;
    let entries = found.into_iter().map(entry).collect();
    Ok(Json(Data::new(wire::Listing { path, entries })))
}

async fn stat(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<SandboxId>,
    Json(body): Json<wire::PathBody>,
) -> Result<Json<Data<wire::Entry>>, Error> {
    let path = absolute(&body.path)?;
    let endpoint = enter(&state, &caller, id).await?;
    let info = state.control.guest.stat(&endpoint, &path).await.map_err(guest_error)?;
    Ok(Json(Data::new(entry(info))))
}

async fn tree(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<SandboxId>,
    Query(query): Query<wire::ListQuery>,
) -> Result<Json<Data<wire::Node>>, Error> {
    let path = absolute(query.path.as_deref().unwrap_or(WORKDIR))?;
    let depth = query.depth.unwrap_or(3).clamp(1, MAX_DEPTH);
    let endpoint = enter(&state, &caller, id).await?;
    let guest = &state.control.guest;
    let root = guest.stat(&endpoint, &path).await.map_err(guest_error)?;
    let found = guest.list(&endpoint, &path, depth).await.map_err(guest_error)?;
    Ok(Json(Data::new(grow(entry(root), found.into_iter().map(entry).collect()))))
}

/// Puts entries below the folders that hold them.
fn grow(root: wire::Entry, entries: Vec<wire::Entry>) -> wire::Node {
    let mut by_folder = BTreeMap::<String, Vec<wire::Entry>>::new();
    for entry in entries {
        let folder = entry.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        by_folder.entry(folder.to_owned()).or_default().push(entry);
    }
    fill(root, &mut by_folder)
}

fn fill(entry: wire::Entry, by_folder: &mut BTreeMap<String, Vec<wire::Entry>>) -> wire::Node {
    let key = entry.path.trim_end_matches('/');
    let mut children = by_folder.remove(key).unwrap_or_default();
    children.sort_by(|a, b| a.name.cmp(&b.name));
    let children = children.into_iter().map(|child| fill(child, by_folder)).collect();
    wire::Node { entry, children }
}

async fn make_dir(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<SandboxId>,
    Json(body): Json<wire::PathBody>,
) -> Result<(StatusCode, Json<Data<wire::Saved>>), Error> {
    let path = absolute(&body.path)?;
    let endpoint = enter(&state, &caller, id).await?;
    state.control.guest.make_dir(&endpoint, &path).await.map_err(guest_error)?;
    Ok((StatusCode::CREATED, Json(Data::new(wire::Saved { path, size: None }))))
}

async fn remove(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<SandboxId>,
    Json(body): Json<wire::PathBody>,
) -> Result<StatusCode, Error> {
    remove_at(&state, &caller, id, &body.path).await
}

async fn remove_query(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<SandboxId>,
    Query(query): Query<PathQuery>,
) -> Result<StatusCode, Error> {
    remove_at(&state, &caller, id, &query.path).await
}

async fn remove_at(
    state: &AppState,
    caller: &Caller,
    id: SandboxId,
    path: &str,
) -> Result<StatusCode, Error> {
    let path = absolute(path)?;
    let endpoint = enter(state, caller, id).await?;
    state.control.guest.remove(&endpoint, &path).await.map_err(guest_error)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn rename(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<SandboxId>,
    Json(body): Json<wire::Move>,
) -> Result<Json<Data<wire::Moved>>, Error> {
    let (from, to) = (absolute(&body.from)?, absolute(&body.to)?);
    let endpoint = enter(&state, &caller, id).await?;
    state.control.guest.rename(&endpoint, &from, &to).await.map_err(guest_error)?;
    Ok(Json(Data::new(wire::Moved { from, path: to })))
}

fn entry(info: FileInfo) -> wire::Entry {
    wire::Entry {
        kind: match info.file_type {
            FileType::File => "file",
            FileType::Dir => "dir",
            FileType::Symlink => "symlink",
            FileType::Other => "other",
        },
        is_dir: info.file_type == FileType::Dir,
        name: info.name,
        path: info.path,
        size: info.size,
        mode: format!("{:04o}", info.mode & 0o7777),
        owner: info.owner,
        group: info.group,
        modified_at: info.modified_at.map(time),
        target: info.symlink_target,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> wire::Entry {
        entry(FileInfo {
            name: path.rsplit('/').next().unwrap().to_owned(),
            path: path.to_owned(),
            file_type: FileType::File,
            size: 1,
            mode: 0o100_644,
            owner: "user".into(),
            group: "user".into(),
            modified_at: None,
            symlink_target: None,
        })
    }

    #[test]
    fn paths_become_absolute_or_are_refused() {
        assert_eq!(absolute("a/b").unwrap(), "/workspace/a/b");
        assert_eq!(absolute("/etc/x").unwrap(), "/etc/x");
        let long = "x".repeat(MAX_PATH + 1);
        assert_eq!(absolute("a/../b").unwrap(), "/workspace/a/../b");
        assert_eq!(absolute("..a/...").unwrap(), "/workspace/..a/...");
        for bad in ["", "a\0b", &long, "..", "../../etc/passwd", "a/../../b", "./..", "a/..//../b"]
        {
            let error = absolute(bad).unwrap_err();
            assert!(matches!(error, Error::BadRequest { code: "INVALID_PATH", .. }), "{error:?}");
        }
    }

    #[test]
    fn the_two_routes_read_content_differently() {
        let write = |base64: Option<&str>, content: Option<&str>| wire::Write {
            path: "a".into(),
            content_base64: base64.map(str::to_owned),
            content: content.map(str::to_owned),
        };
        assert_eq!(content(&write(Some("aGk="), None), false).unwrap(), "hi");
        assert_eq!(content(&write(None, Some("aGk=")), false).unwrap(), "aGk=");
        assert_eq!(content(&write(None, Some("aGk=")), true).unwrap(), "hi");
        assert!(content(&write(Some("?"), None), false).is_err());
        assert!(content(&write(None, None), true).is_err());
    }

    #[test]
    fn a_tree_has_each_entry_below_its_folder() {
        let entries = vec![file("/w/b/c"), file("/w/b"), file("/w/a")];
        let tree = grow(file("/w"), entries);
        let names: Vec<_> = tree.children.iter().map(|node| node.entry.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(tree.children[1].children[0].entry.path, "/w/b/c");
        assert_eq!(tree.entry.mode, "0644");
        assert_eq!(grow(file("/"), vec![file("/x")]).children.len(), 1);
    }
}
