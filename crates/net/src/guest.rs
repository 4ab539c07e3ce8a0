//! `Guest` over the envd protocol: Connect with JSON, and plain HTTP for files and archives.
//!
//! Promises: a process that was started goes on when its stream is dropped; what a file or an
//! archive holds is streamed.

use std::time::Duration;

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{Method, Request, header, request};
use miosa_types::guest::{
    ByteStream, Command, Endpoint, Error, FileInfo, FileType, Guest, Init, ListeningPort,
    OutputStream,
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::{
    connect::refused,
    http::{Answer, Body, Pool, full, stream, unavailable},
    process,
};

/// For calls that answer at once.
const UNARY: Duration = Duration::from_secs(30);
/// From the last byte of an upload to its answer; unpacking many files takes a while.
const UPLOAD: Duration = Duration::from_mins(10);
/// Longest pause within a download, and between signs of life of a process.
const IDLE: Duration = Duration::from_mins(1);
/// Longest unary answer.
const MAX_ANSWER: usize = 64 << 20;

/// See the module. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct HttpGuest {
    pool: Pool,
}

impl HttpGuest {
    /// A client without connections.
    pub fn new() -> Self {
        Self::default()
    }

    async fn send(
        &self,
        guest: &Endpoint,
        request: request::Builder,
        body: Body,
        deadline: Duration,
    ) -> Result<Answer, Error> {
        let request = request
            .header(header::HOST, guest.addr.to_string())
            .header("x-access-token", guest.token.expose())
            .body(body)
            .map_err(|error| Error::Invalid { reason: error.to_string() })?;
        let answer = self.pool.send(guest, request, deadline).await?;
        let status = answer.response.status();
        if status.is_success() {
            return Ok(answer);
        }
        Err(refused(status, &answer.bytes(1 << 20, UNARY).await?))
    }

    async fn unary(&self, guest: &Endpoint, path: &str, message: Value) -> Result<Value, Error> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::CONTENT_TYPE, "application/json")
            .header("connect-protocol-version", "1");
        let answer = self.send(guest, request, full(message.to_string()), UNARY).await?;
        let bytes = answer.bytes(MAX_ANSWER, UNARY).await?;
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).map_err(unavailable)
    }

    async fn get(&self, guest: &Endpoint, path: &str) -> Result<Answer, Error> {
        let request = Request::builder().method(Method::GET).uri(path);
        self.send(guest, request, full(Bytes::new()), UNARY).await
    }

    async fn upload(&self, guest: &Endpoint, path: &str, body: ByteStream) -> Result<(), Error> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::CONTENT_TYPE, "application/octet-stream");
        let answer = self.send(guest, request, stream(body), UPLOAD).await?;
        answer.bytes(1 << 20, UPLOAD).await.map(drop)
    }
}

#[async_trait]
impl Guest for HttpGuest {
    async fn health(&self, guest: &Endpoint, timeout: Duration) -> Result<(), Error> {
        let request = Request::builder().method(Method::GET).uri("/health");
        let answer = self.send(guest, request, full(Bytes::new()), timeout).await?;
        answer.bytes(1024, timeout).await.map(drop)
    }

    async fn init(&self, guest: &Endpoint, init: &Init) -> Result<(), Error> {
        let mut message = json!({ "envVars": init.env });
        if let Some(hostname) = &init.hostname {
            message["hostname"] = hostname.as_str().into();
        }
        if let Some(workdir) = &init.workdir {
            message["defaultWorkdir"] = workdir.as_str().into();
        }
        self.unary(guest, "/init", message).await.map(drop)
    }

    async fn start(&self, guest: &Endpoint, command: &Command) -> Result<OutputStream, Error> {
        let request = process::request(command);
        let body = full(process::message(command)?);
        let answer = self.send(guest, request, body, UNARY).await?;
        process::output(answer.stream(Some(IDLE))).await
    }

    async fn send_stdin(&self, guest: &Endpoint, pid: u32, bytes: Bytes) -> Result<(), Error> {
        let message = json!({
            "process": { "pid": pid }, "input": { "stdin": BASE64.encode(&bytes) },
        });
        self.unary(guest, "/process.Process/SendInput", message).await.map(drop)
    }

    async fn close_stdin(&self, guest: &Endpoint, pid: u32) -> Result<(), Error> {
        let message = json!({ "process": { "pid": pid } });
        self.unary(guest, "/process.Process/CloseStdin", message).await.map(drop)
    }

    async fn signal(&self, guest: &Endpoint, pid: u32, signal: i32) -> Result<(), Error> {
        let name = match signal {
            9 => "SIGNAL_SIGKILL",
            15 => "SIGNAL_SIGTERM",
            other => {
                return Err(Error::Invalid { reason: format!("signal {other} cannot be sent") });
            }
        };
        let message = json!({ "process": { "pid": pid }, "signal": name });
        self.unary(guest, "/process.Process/SendSignal", message).await.map(drop)
    }

    async fn read(&self, guest: &Endpoint, path: &str) -> Result<ByteStream, Error> {
        let answer = self.get(guest, &with_path("/files", path)).await?;
        Ok(answer.stream(Some(IDLE)).boxed())
    }

    async fn write(&self, guest: &Endpoint, path: &str, body: ByteStream) -> Result<(), Error> {
        self.upload(guest, &with_path("/files", path), body).await
    }

    async fn list(&self, guest: &Endpoint, path: &str, depth: u32) -> Result<Vec<FileInfo>, Error> {
        let message = json!({ "path": path, "depth": depth.max(1) });
        let answer = self.unary(guest, "/filesystem.Filesystem/ListDir", message).await?;
        answer["entries"].as_array().into_iter().flatten().map(file_info).collect()
    }

    async fn stat(&self, guest: &Endpoint, path: &str) -> Result<FileInfo, Error> {
        let message = json!({ "path": path });
        file_info(&self.unary(guest, "/filesystem.Filesystem/Stat", message).await?["entry"])
    }

    async fn remove(&self, guest: &Endpoint, path: &str) -> Result<(), Error> {
        let message = json!({ "path": path });
        self.unary(guest, "/filesystem.Filesystem/Remove", message).await.map(drop)
    }

    async fn make_dir(&self, guest: &Endpoint, path: &str) -> Result<(), Error> {
        let message = json!({ "path": path });
        match self.unary(guest, "/filesystem.Filesystem/MakeDir", message).await {
            // The protocol calls a folder that is there an error; for us it is what we wanted.
            Err(Error::Invalid { .. }) if self.is_dir(guest, path).await => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    async fn rename(&self, guest: &Endpoint, from: &str, to: &str) -> Result<(), Error> {
        let message = json!({ "source": from, "destination": to });
        self.unary(guest, "/filesystem.Filesystem/Move", message).await.map(drop)
    }

    async fn read_tar(
        &self,
        guest: &Endpoint,
        path: &str,
        exclude: &[String],
    ) -> Result<ByteStream, Error> {
        let mut uri = with_path("/tar", path);
        for pattern in exclude {
            uri.push_str("&exclude=");
            uri.extend(utf8_percent_encode(pattern, NON_ALPHANUMERIC));
        }
        Ok(self.get(guest, &uri).await?.stream(Some(IDLE)).boxed())
    }

    async fn write_tar(&self, guest: &Endpoint, path: &str, tar: ByteStream) -> Result<(), Error> {
        self.upload(guest, &with_path("/tar", path), tar).await
    }

    async fn ports(&self, guest: &Endpoint) -> Result<Vec<ListeningPort>, Error> {
        let answer = self.get(guest, "/ports").await?;
        serde_json::from_slice(&answer.bytes(MAX_ANSWER, UNARY).await?).map_err(unavailable)
    }

    async fn logs(&self, guest: &Endpoint, bytes: u32) -> Result<Bytes, Error> {
        let answer = self.get(guest, &format!("/logs?bytes={bytes}")).await?;
        answer.bytes(MAX_ANSWER, UNARY).await
    }
}

impl HttpGuest {
    async fn is_dir(&self, guest: &Endpoint, path: &str) -> bool {
        self.stat(guest, path).await.is_ok_and(|found| found.file_type == FileType::Dir)
    }
}

fn with_path(route: &str, path: &str) -> String {
    format!("{route}?path={}", utf8_percent_encode(path, NON_ALPHANUMERIC))
}

fn file_info(entry: &Value) -> Result<FileInfo, Error> {
    let text = |field: &str| entry[field].as_str().map(str::to_owned);
    let missing = || unavailable(format!("the sandbox described a file as {entry}"));
    Ok(FileInfo {
        name: text("name").ok_or_else(missing)?,
        path: text("path").ok_or_else(missing)?,
        file_type: match entry["type"].as_str() {
            Some("FILE_TYPE_FILE") => FileType::File,
            Some("FILE_TYPE_DIRECTORY") => FileType::Dir,
            Some("FILE_TYPE_SYMLINK") => FileType::Symlink,
            _ => FileType::Other,
        },
        // Proto-JSON writes 64-bit numbers as text and leaves out zeros.
        size: text("size").and_then(|size| size.parse().ok()).unwrap_or(0),
        mode: entry["mode"].as_u64().and_then(|mode| mode.try_into().ok()).unwrap_or(0),
        owner: text("owner").unwrap_or_default(),
        group: text("group").unwrap_or_default(),
        modified_at: text("modifiedTime").and_then(|time| time.parse().ok()),
        symlink_target: text("symlinkTarget"),
    })
}
