//! A guest whose `/workspace` is a folder of this machine. Commands really run.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use miosa_types::guest::{
    ByteStream, Command, Endpoint, Error, FileInfo, FileType, Guest, Init, ListeningPort, Output,
    OutputStream,
};

#[derive(Debug)]
pub(crate) struct FolderGuest {
    pub(crate) dir: tempfile::TempDir,
    /// Calls beyond the first so many find nobody.
    pub(crate) dies_after: Option<std::sync::atomic::AtomicUsize>,
}

impl FolderGuest {
    pub(crate) fn new(files: &[(&str, &str)]) -> Self {
        let guest = Self { dir: tempfile::tempdir().unwrap(), dies_after: None };
        for (path, text) in files {
            let path = guest.dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        guest
    }

    fn host(&self, path: &str) -> PathBuf {
        let below = path.strip_prefix("/workspace").expect("only the workspace is asked for");
        self.dir.path().join(below.trim_start_matches('/'))
    }

    fn alive(&self) -> Result<(), Error> {
        use std::sync::atomic::Ordering::SeqCst;
        let left = self
            .dies_after
            .as_ref()
            .map(|left| left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok());
        if left == Some(false) {
            Err(unavailable(std::io::ErrorKind::ConnectionReset))
        } else {
            Ok(())
        }
    }
}

fn unavailable(kind: std::io::ErrorKind) -> Error {
    Error::Unavailable { source: Box::new(std::io::Error::from(kind)) }
}

fn info(path: &Path) -> Result<FileInfo, Error> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let found =
        std::fs::symlink_metadata(path).map_err(|_| Error::NotFound { what: name.clone() })?;
    let file_type = match found.file_type() {
        kind if kind.is_dir() => FileType::Dir,
        kind if kind.is_symlink() => FileType::Symlink,
        _ => FileType::File,
    };
    let path = path.display().to_string();
    let (owner, group) = (String::new(), String::new());
    let (size, mode) = (found.len(), 0o644);
    let (modified_at, symlink_target) = (None, None);
    Ok(FileInfo { name, path, file_type, size, mode, owner, group, modified_at, symlink_target })
}

fn add(to: &mut tar::Builder<Vec<u8>>, root: &Path, folder: &Path, exclude: &[String]) {
    let mut entries: Vec<_> = std::fs::read_dir(folder).unwrap().map(Result::unwrap).collect();
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let relative = path.strip_prefix(root).unwrap();
        let is_excluded = exclude.iter().any(|one| {
            relative.starts_with(one) || relative.file_name().is_some_and(|name| name == &one[..])
        });
        if is_excluded {
            continue;
        }
        to.append_path_with_name(&path, relative).unwrap();
        if entry.file_type().unwrap().is_dir() {
            add(to, root, &path, exclude);
        }
    }
}

#[async_trait]
impl Guest for FolderGuest {
    async fn health(&self, _: &Endpoint, _: Duration) -> Result<(), Error> {
        self.alive()
    }

    async fn init(&self, _: &Endpoint, _: &Init) -> Result<(), Error> {
        self.alive()
    }

    async fn start(&self, _: &Endpoint, command: &Command) -> Result<OutputStream, Error> {
        self.alive()?;
        let mut process = tokio::process::Command::new(&command.argv[0]);
        process.args(&command.argv[1..]).envs(&command.env).kill_on_drop(true);
        process.current_dir(self.host(command.cwd.as_deref().unwrap_or("/workspace")));
        let limit = command.timeout.unwrap_or(Duration::from_mins(1));
        let ended = match tokio::time::timeout(limit, process.output()).await {
            Ok(done) => {
                let done = done.map_err(|_| Error::NotFound { what: "the program".into() })?;
                let code = done.status.code().unwrap_or(137);
                vec![
                    Ok(Output::Started { pid: 1 }),
                    Ok(Output::Stdout(done.stdout.into())),
                    Ok(Output::Stderr(done.stderr.into())),
                    Ok(Output::Ended { code, timed_out: false }),
                ]
            }
            Err(_) => vec![Ok(Output::Ended { code: 137, timed_out: true })],
        };
        Ok(Box::pin(stream::iter(ended)))
    }

    async fn send_stdin(&self, _: &Endpoint, _: u32, _: Bytes) -> Result<(), Error> {
        Err(unavailable(std::io::ErrorKind::Unsupported))
    }

    async fn close_stdin(&self, _: &Endpoint, _: u32) -> Result<(), Error> {
        Err(unavailable(std::io::ErrorKind::Unsupported))
    }

    async fn signal(&self, _: &Endpoint, _: u32, _: i32) -> Result<(), Error> {
        Err(unavailable(std::io::ErrorKind::Unsupported))
    }

    async fn read(&self, _: &Endpoint, path: &str) -> Result<ByteStream, Error> {
        let bytes =
            std::fs::read(self.host(path)).map_err(|_| Error::NotFound { what: path.into() })?;
        Ok(Box::pin(stream::iter([Ok(bytes.into())])))
    }

    async fn write(&self, _: &Endpoint, _: &str, _: ByteStream) -> Result<(), Error> {
        Err(unavailable(std::io::ErrorKind::Unsupported))
    }

    async fn list(&self, _: &Endpoint, path: &str, _: u32) -> Result<Vec<FileInfo>, Error> {
        self.alive()?;
        let entries = std::fs::read_dir(self.host(path))
            .map_err(|_| Error::NotFound { what: path.into() })?;
        entries.map(|entry| info(&entry.unwrap().path())).collect()
    }

    async fn stat(&self, _: &Endpoint, path: &str) -> Result<FileInfo, Error> {
        self.alive()?;
        info(&self.host(path))
    }

    async fn remove(&self, _: &Endpoint, _: &str) -> Result<(), Error> {
        Err(unavailable(std::io::ErrorKind::Unsupported))
    }

    async fn make_dir(&self, _: &Endpoint, _: &str) -> Result<(), Error> {
        Err(unavailable(std::io::ErrorKind::Unsupported))
    }

    async fn rename(&self, _: &Endpoint, _: &str, _: &str) -> Result<(), Error> {
        Err(unavailable(std::io::ErrorKind::Unsupported))
    }

    async fn read_tar(
        &self,
        _: &Endpoint,
        path: &str,
        exclude: &[String],
    ) -> Result<ByteStream, Error> {
        self.alive()?;
        let root = self.host(path);
        info(&root)?;
        let mut archive = tar::Builder::new(Vec::new());
        archive.follow_symlinks(false);
        add(&mut archive, &root, &root, exclude);
        let bytes = archive.into_inner().unwrap();
        let chunks: Vec<_> =
            bytes.chunks(1000).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        Ok(Box::pin(stream::iter(chunks)))
    }

    async fn write_tar(&self, _: &Endpoint, path: &str, mut tar: ByteStream) -> Result<(), Error> {
        self.alive()?;
        let mut bytes = Vec::new();
        while let Some(chunk) = tar.next().await {
            bytes.extend_from_slice(&chunk.map_err(|e| unavailable(e.kind()))?);
        }
        let mut archive = tar::Archive::new(&bytes[..]);
        archive.set_preserve_ownerships(false);
        archive.unpack(self.host(path)).map_err(|e| unavailable(e.kind()))
    }

    async fn ports(&self, _: &Endpoint) -> Result<Vec<ListeningPort>, Error> {
        Ok(Vec::new())
    }

    async fn logs(&self, _: &Endpoint, _: u32) -> Result<Bytes, Error> {
        Ok(Bytes::new())
    }
}
