//! Templates: root filesystems built from a declarative file and kept in a cache that the
//! installations of a host share.
//!
//! Promises: what [`Templates::resolve`] returns is whole and never changes; it costs a few small
//! reads. A build happens once per spec, apt sources of the host and version of the builder; a
//! build that is cut short leaves nothing that is ever used. Two builders of one template wait
//! for each other, also across processes.
//!
//! Layout: `<cache>/templates/<name>/<digest>/{rootfs,template.json}`, `<name>/current` (the
//! digest that the name means), `<name>.lock`.

mod build;
mod sources;
mod spec;

use std::{
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use miosa_types::Digest;
use serde::{Deserialize, Serialize};

use self::sources::Sources;
pub use self::spec::{TemplateFile, TemplateSpec};

/// The spec of the default template.
pub const DEFAULT_SPEC: &str = include_str!("../../../../templates/miosa-sandbox.toml");

/// Told what a build does, one line at a time.
pub type Progress<'a> = dyn Fn(&str) + Send + Sync + 'a;

/// A template that is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// Its name.
    pub name: String,
    /// Names this very build.
    pub digest: Digest,
    /// Its root filesystem; read-only for everyone.
    pub rootfs: PathBuf,
    /// What it was built from.
    pub spec: TemplateSpec,
}

/// Why there is no template.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Ask for another, or build it.
    #[error("there is no template `{wanted}`; there are: {}", known.join(", "))]
    NotFound {
        /// What was asked for.
        wanted: String,
        /// Names and aliases that would do.
        known: Vec<String>,
    },
    /// The spec must be changed.
    #[error("template spec: {0}")]
    Spec(String),
    /// A program of the build failed: its last lines say why.
    #[error("template build failed at {step}: {reason}")]
    Build {
        /// The program.
        step: String,
        /// Its last lines.
        reason: String,
    },
    /// The disk refused.
    #[error("template cache: {0}")]
    Io(#[from] io::Error),
}

/// What `template.json` holds.
#[derive(Serialize, Deserialize)]
struct Record {
    digest: Digest,
    spec: TemplateSpec,
}

/// The templates of a cache folder.
#[derive(Clone, Debug)]
pub struct Templates {
    folder: PathBuf,
}

impl Templates {
    /// Opens the cache, made if absent.
    pub fn open(cache_dir: &Path) -> io::Result<Self> {
        let folder = cache_dir.join("templates");
        fs_err::create_dir_all(&folder)?;
        // It holds real setuid-root programs: for nobody on the host but root.
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        fs_err::set_permissions(&folder, private)?;
        Ok(Self { folder })
    }

    /// The template of that name, alias or digest. A name wins over another's alias.
    pub fn resolve(&self, wanted: &str) -> Result<Template, Error> {
        if let Ok(digest) = wanted.parse::<Digest>() {
            for name in self.names()? {
                if let Some(template) = self.load(&name, digest)? {
                    return Ok(template);
                }
            }
        }
        let all = self.list()?;
        let by_name = all.iter().find(|template| template.name == wanted);
        let by_alias = || {
            all.iter().find(|template| template.spec.aliases.iter().any(|alias| alias == wanted))
        };
        if let Some(template) = by_name.or_else(by_alias) {
            return Ok(template.clone());
        }
        let known = all.iter().flat_map(|template| {
            std::iter::once(template.name.clone()).chain(template.spec.aliases.clone())
        });
        Err(Error::NotFound { wanted: wanted.to_owned(), known: known.collect() })
    }

    /// The template that each name means now, by name.
    pub fn list(&self) -> Result<Vec<Template>, Error> {
        let mut found = Vec::new();
        for name in self.names()? {
            let Ok(text) = fs_err::read_to_string(self.folder.join(&name).join("current")) else {
                continue;
            };
            let Ok(digest) = text.trim().parse() else { continue };
            found.extend(self.load(&name, digest)?);
        }
        Ok(found)
    }

    /// Builds the template of a spec file; a build that is there already is used. Blocks: half a
    /// minute for the default one.
    pub fn build(&self, spec: &Path, progress: &Progress<'_>) -> Result<Template, Error> {
        self.build_text(&fs_err::read_to_string(spec)?, progress)
    }

    /// Builds the default template, whose spec is part of this program.
    pub fn build_default(&self, progress: &Progress<'_>) -> Result<Template, Error> {
        self.build_text(DEFAULT_SPEC, progress)
    }

    fn build_text(&self, text: &str, progress: &Progress<'_>) -> Result<Template, Error> {
        let spec = spec::parse(text).map_err(Error::Spec)?;
        let sources = Sources::read(Path::new("/etc/apt"), &spec.suite)?;
        let digest = digest_of(&spec, &sources)?;
        let name = spec.name.clone();
        let folder = self.folder.join(&name);
        fs_err::create_dir_all(&folder)?;
        if self.load(&name, digest)?.is_none() {
            let _lock = self.lock(&name, progress)?;
            if self.load(&name, digest)?.is_none() {
                self.make(&spec, &sources, digest, progress)?;
            }
        }
        let current = folder.join("current");
        if fs_err::read_to_string(&current).ok().as_deref() != Some(&digest.to_string()) {
            let draft = folder.join(format!(".current-{}", std::process::id()));
            fs_err::write(&draft, digest.to_string())?;
            fs_err::rename(&draft, &current)?;
        }
        self.load(&name, digest)?.ok_or_else(|| io::Error::other("the build vanished").into())
    }

    /// Builds beside, then renames. The lock is held.
    fn make(
        &self,
        spec: &TemplateSpec,
        sources: &Sources,
        digest: Digest,
        progress: &Progress<'_>,
    ) -> Result<(), Error> {
        let folder = self.folder.join(&spec.name);
        sweep(&folder)?;
        if sources.is_empty() {
            progress("the host has no apt source for this release; using Debian's own");
        }
        let draft = folder.join(format!(".build-{digest}"));
        fs_err::create_dir(&draft)?;
        let result = build::build(spec, sources, &draft, progress).and_then(|()| {
            let record = Record { digest, spec: spec.clone() };
            let text = serde_json::to_vec_pretty(&record).map_err(io::Error::other)?;
            fs_err::write(draft.join("template.json"), text)?;
            let opened = fs_err::File::open(&draft)?;
            rustix::fs::syncfs(&opened).map_err(io::Error::from)?;
            Ok(fs_err::rename(&draft, folder.join(digest.to_string()))?)
        });
        if result.is_err() {
            sweep(&folder)?;
        }
        result
    }

    fn lock(&self, name: &str, progress: &Progress<'_>) -> io::Result<std::fs::File> {
        let file = std::fs::File::create(self.folder.join(format!("{name}.lock")))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                progress("waiting for another build of this template");
                file.lock()?;
            }
            Err(std::fs::TryLockError::Error(error)) => return Err(error),
        }
        Ok(file)
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs_err::read_dir(&self.folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    fn load(&self, name: &str, digest: Digest) -> Result<Option<Template>, Error> {
        let folder = self.folder.join(name).join(digest.to_string());
        let mut text = Vec::new();
        match fs_err::File::open(folder.join("template.json")) {
            Ok(mut file) => file.read_to_end(&mut text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let record: Record = serde_json::from_slice(&text).map_err(io::Error::other)?;
        let rootfs = folder.join("rootfs");
        Ok(Some(Template { name: name.to_owned(), digest, rootfs, spec: record.spec }))
    }
}

/// Removes builds that were cut short; first what they left mounted, for a removal must never
/// walk into the host's /dev.
fn sweep(folder: &Path) -> Result<(), Error> {
    for entry in fs_err::read_dir(folder)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with(".build-") {
            continue;
        }
        let path = entry.path();
        for mount in crate::rootfs::mounts_under(&path)? {
            crate::rootfs::unmount(&mount)?;
        }
        if !crate::rootfs::mounts_under(&path)?.is_empty() {
            return Err(io::Error::other(format!("{} has mounts", path.display())).into());
        }
        fs_err::remove_dir_all(&path)?;
    }
    Ok(())
}

/// Everything that makes two builds differ, but for the packages' versions of the day.
fn digest_of(spec: &TemplateSpec, sources: &Sources) -> Result<Digest, Error> {
    let spec = serde_json::to_string(spec).map_err(io::Error::other)?;
    let version = build::VERSION;
    let machine = std::env::consts::ARCH;
    let (lines, stanzas) = (&sources.lines, &sources.stanzas);
    let text = serde_json::to_vec(&(version, machine, spec, lines, stanzas));
    Ok(Digest::of(&text.map_err(io::Error::other)?))
}

#[cfg(test)]
mod tests;
