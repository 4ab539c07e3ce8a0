//! A guest in memory: files per sandbox, commands that end as a test says.

use std::{
    collections::BTreeMap,
    io::{Cursor, Read as _},
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use miosa_types::guest::{
    ByteStream, Command, Endpoint, Error, FileInfo, FileType, Guest, Init, ListeningPort, Output,
    OutputStream,
};

type Files = BTreeMap<String, Bytes>;

/// See the module.
#[derive(Debug, Default)]
pub struct FakeGuest(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<SocketAddr, Files>,
    /// Commands whose line contains the text end with that code and output.
    scripts: Vec<(String, i32, String)>,
    commands: Vec<Vec<String>>,
    /// What every guest tells.
    ports: Vec<u16>,
    /// Commands during which the guest goes silent, by a part of their line, and how often.
    silent: BTreeMap<String, u32>,
    /// Commands whose line contains one of these never end.
    endless: Vec<String>,
}

impl FakeGuest {
    /// From now on a command whose line contains `part` prints `output` and ends with `code`.
    pub fn script(&self, part: &str, code: i32, output: &str) {
        self.lock().scripts.push((part.to_owned(), code, output.to_owned()));
    }

    /// From now on every guest tells that these ports are listened on.
    pub fn listen(&self, ports: &[u16]) {
        self.lock().ports = ports.to_vec();
    }

    /// The guest goes silent during the next `times` commands whose line contains `part`.
    pub fn go_silent(&self, part: &str, times: u32) {
        self.lock().silent.insert(part.to_owned(), times);
    }

    /// From now on a command whose line contains `part` never ends.
    pub fn never_end(&self, part: &str) {
        self.lock().endless.push(part.to_owned());
    }

    /// Every command that was started.
    pub fn commands(&self) -> Vec<Vec<String>> {
        self.lock().commands.clone()
    }

    /// Puts a file into a sandbox.
    pub fn put(&self, guest: &Endpoint, path: &str, text: &str) {
        let bytes = Bytes::copy_from_slice(text.as_bytes());
        self.lock().files.entry(guest.addr).or_default().insert(path.to_owned(), bytes);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn below(&self, guest: &Endpoint, path: &str) -> Files {
        let prefix = format!("{}/", path.trim_end_matches('/'));
        let state = self.lock();
        let files = state.files.get(&guest.addr).cloned().unwrap_or_default();
        let inside =
            |(path, bytes): (String, Bytes)| Some((path.strip_prefix(&prefix)?.to_owned(), bytes));
        files.into_iter().filter_map(inside).collect()
    }
}

async fn collect(mut stream: ByteStream) -> Result<Vec<u8>, Error> {
    let mut all = Vec::new();
    while let Some(piece) = stream.next().await {
        let piece = piece.map_err(|source| Error::Unavailable { source: source.into() })?;
        all.extend_from_slice(&piece);
    }
    Ok(all)
}

fn one(bytes: impl Into<Bytes>) -> ByteStream {
    Box::pin(stream::iter([Ok(bytes.into())]))
}

fn info(path: &str, size: usize, file_type: FileType) -> FileInfo {
    FileInfo {
        name: path.rsplit('/').next().unwrap_or(path).to_owned(),
        path: path.to_owned(),
        file_type,
        size: size as u64,
        mode: 0o644,
        owner: "user".into(),
        group: "user".into(),
        modified_at: None,
        symlink_target: None,
    }
}

fn missing(path: &str) -> Error {
    Error::NotFound { what: path.to_owned() }
}

#[async_trait]
impl Guest for FakeGuest {
    async fn health(&self, _: &Endpoint, _: Duration) -> Result<(), Error> {
        Ok(())
    }

    async fn init(&self, _: &Endpoint, _: &Init) -> Result<(), Error> {
        Ok(())
    }

    async fn start(&self, _: &Endpoint, command: &Command) -> Result<OutputStream, Error> {
        let line = command.argv.join(" ");
        let mut state = self.lock();
        state.commands.push(command.argv.clone());
        if state.endless.iter().any(|part| line.contains(part.as_str())) {
            let started = stream::iter([Ok(Output::Started { pid: 7 })]);
            return Ok(Box::pin(started.chain(stream::pending())));
        }
        let script = state.scripts.iter().find(|(part, ..)| line.contains(part.as_str()));
        let (code, output) =
            script.map_or((0, String::new()), |(_, code, output)| (*code, output.clone()));
        for (part, times) in &mut state.silent {
            if line.contains(part.as_str()) && *times > 0 {
                *times -= 1;
                return Err(failed(std::io::ErrorKind::ConnectionReset.into()));
            }
        }
        let outputs = [
            Ok(Output::Started { pid: 7 }),
            Ok(Output::Stdout(output.into())),
            Ok(Output::Ended { code, timed_out: false }),
        ];
        Ok(Box::pin(stream::iter(outputs)))
    }

    async fn send_stdin(&self, _: &Endpoint, _: u32, _: Bytes) -> Result<(), Error> {
        Ok(())
    }

    async fn close_stdin(&self, _: &Endpoint, _: u32) -> Result<(), Error> {
        Ok(())
    }

    async fn signal(&self, _: &Endpoint, _: u32, _: i32) -> Result<(), Error> {
        Ok(())
    }

    async fn read(&self, guest: &Endpoint, path: &str) -> Result<ByteStream, Error> {
        let state = self.lock();
        let found = state.files.get(&guest.addr).and_then(|files| files.get(path)).cloned();
        Ok(one(found.ok_or_else(|| missing(path))?))
    }

    async fn write(&self, guest: &Endpoint, path: &str, body: ByteStream) -> Result<(), Error> {
        let bytes = collect(body).await?;
        let mut state = self.lock();
        state.files.entry(guest.addr).or_default().insert(path.to_owned(), bytes.into());
        Ok(())
    }

    async fn list(&self, guest: &Endpoint, path: &str, _: u32) -> Result<Vec<FileInfo>, Error> {
        let base = path.trim_end_matches('/');
        let mut found = BTreeMap::new();
        for (relative, bytes) in self.below(guest, path) {
            let entry = match relative.split_once('/') {
                Some((folder, _)) => info(&format!("{base}/{folder}"), 0, FileType::Dir),
                None => info(&format!("{base}/{relative}"), bytes.len(), FileType::File),
            };
            found.insert(entry.path.clone(), entry);
        }
        Ok(found.into_values().collect())
    }

    async fn stat(&self, guest: &Endpoint, path: &str) -> Result<FileInfo, Error> {
        let state = self.lock();
        let file = state.files.get(&guest.addr).and_then(|files| files.get(path)).cloned();
        drop(state);
        match file {
            Some(bytes) => Ok(info(path, bytes.len(), FileType::File)),
            None if !self.below(guest, path).is_empty() => Ok(info(path, 0, FileType::Dir)),
            None => Err(missing(path)),
        }
    }

    async fn remove(&self, guest: &Endpoint, path: &str) -> Result<(), Error> {
        let inside = format!("{path}/");
        let mut state = self.lock();
        let files = state.files.entry(guest.addr).or_default();
        files.retain(|name, _| name != path && !name.starts_with(&inside));
        Ok(())
    }

    async fn make_dir(&self, _: &Endpoint, _: &str) -> Result<(), Error> {
        Ok(())
    }

    async fn rename(&self, guest: &Endpoint, from: &str, to: &str) -> Result<(), Error> {
        let mut state = self.lock();
        let files = state.files.entry(guest.addr).or_default();
        let bytes = files.remove(from).ok_or_else(|| missing(from))?;
        files.insert(to.to_owned(), bytes);
        Ok(())
    }

    async fn read_tar(
        &self,
        guest: &Endpoint,
        path: &str,
        exclude: &[String],
    ) -> Result<ByteStream, Error> {
        let mut tar = tar::Builder::new(Vec::new());
        for (relative, bytes) in self.below(guest, path) {
            if relative.split('/').any(|part| exclude.iter().any(|name| name == part)) {
                continue;
            }
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, &relative, &bytes[..]).map_err(failed)?;
        }
        Ok(one(tar.into_inner().map_err(failed)?))
    }

    async fn write_tar(&self, guest: &Endpoint, path: &str, tar: ByteStream) -> Result<(), Error> {
        let bytes = collect(tar).await?;
        let mut archive = tar::Archive::new(Cursor::new(bytes));
        let mut unpacked = Files::new();
        for entry in archive.entries().map_err(failed)? {
            let mut entry = entry.map_err(failed)?;
            let relative = entry.path().map_err(failed)?.to_string_lossy().into_owned();
            if entry.header().entry_type().is_file() {
                let mut content = Vec::new();
                entry.read_to_end(&mut content).map_err(failed)?;
                let relative = relative.trim_start_matches("./");
                unpacked.insert(format!("{path}/{relative}"), content.into());
            }
        }
        self.lock().files.entry(guest.addr).or_default().extend(unpacked);
        Ok(())
    }

    async fn ports(&self, _: &Endpoint) -> Result<Vec<ListeningPort>, Error> {
        let port = |port: &u16| ListeningPort {
            address: "::".into(),
            port: *port,
            pid: None,
            process: None,
        };
        Ok(self.lock().ports.iter().map(port).collect())
    }

    async fn logs(&self, _: &Endpoint, _: u32) -> Result<Bytes, Error> {
        Ok(Bytes::from_static(b"it printed this\n"))
    }
}

fn failed(source: std::io::Error) -> Error {
    Error::Unavailable { source: source.into() }
}
