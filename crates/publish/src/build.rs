//! Building a saved source in a ready build sandbox.
//!
//! Promises: the artifact is stored before it is returned; the caller learns whether to show a
//! failure ([`BuildError::Failed`]) or to try again ([`BuildError::Unavailable`]); every step
//! has a deadline; the log is bounded and holds no environment.

use std::time::Duration;

use miosa_artifact::{
    ArtifactStore,
    archive::{Error as ArchiveError, Limits, Links, Repack},
    site, store_archive,
};
use miosa_types::{
    Digest,
    guest::{Endpoint, Error as GuestError, Guest},
    manifest::BlobRef,
};
use tokio_util::io::StreamReader;

use crate::{
    WORKSPACE,
    detect::{self, Plan, Serve},
    fetch,
    log::BuildLog,
    request::Request,
    run::RunConfig,
    snapshot::OWNER,
    steps::{Stage, run_line, within},
};

/// What a build needs.
#[derive(Clone, Copy, Debug)]
pub struct BuildContext<'a> {
    /// The way into the build sandbox.
    pub guest: &'a dyn Guest,
    /// That sandbox: started from the template, ready, with an empty workspace.
    pub endpoint: &'a Endpoint,
    /// Where the source is and the artifact goes.
    pub artifacts: &'a ArtifactStore,
    /// What the publish said; checked by [`Request::check`].
    pub request: &'a Request,
    /// The source, as [`crate::snapshot()`] saved it.
    pub source: Digest,
    /// Where the build's output goes.
    pub log: &'a BuildLog,
    /// How long each part may take.
    pub deadlines: Deadlines,
}

/// How long each part may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// Putting the source into the sandbox.
    pub unpack: Duration,
    /// Bringing dependencies, each step.
    pub install: Duration,
    /// The build command.
    pub build: Duration,
    /// Storing the result.
    pub collect: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        let minutes = Duration::from_mins;
        Self { unpack: minutes(2), install: minutes(10), build: minutes(15), collect: minutes(5) }
    }
}

/// A build that succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Built {
    /// What was made; it is in the store.
    pub artifact: Artifact,
    /// What the app is, for people: `Vite app`.
    pub framework: String,
    /// Why it was taken for that.
    pub evidence: Vec<String>,
}

/// The result of a build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Artifact {
    /// Files.
    Site {
        /// Blob of the [`miosa_types::manifest::SiteManifest`].
        manifest: Digest,
        /// How many files.
        files: u64,
        /// Sum of their lengths in bytes.
        total_bytes: u64,
    },
    /// A process.
    App {
        /// Tar of `workspace/…`, to lie over the template.
        layer: BlobRef,
        /// How many files are in it.
        files: u64,
        /// How to run it.
        run: RunConfig,
    },
}

/// Split by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The app's own fault: show it to its owner; trying again cannot help.
    #[error("{reason}")]
    Failed {
        /// What went wrong, as a sentence.
        reason: String,
        /// The last lines of the log.
        log_tail: Vec<String>,
    },
    /// No disk space for the artifact: try again when there is.
    #[error("no space is left for the artifact")]
    NoSpace,
    /// The sandbox or the store failed: try again in a fresh build sandbox.
    #[error("the build was interrupted while it tried to {action}")]
    Unavailable {
        /// What it was doing.
        action: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// How many lines of the log an error carries.
const TAIL: usize = 40;

/// Builds.
pub async fn build(cx: &BuildContext<'_>) -> Result<Built, BuildError> {
    let listing = fetch::listing(cx.artifacts, cx.source).await;
    let listing = listing.map_err(|error| cx.of_archive("read the source", error))?;
    let plan = detect::detect(&listing, cx.request).map_err(|e| cx.failed(e.reason))?;
    cx.log.note(&format!("{} ({})", plan.name, plan.evidence.join("; ")));

    unpack(cx).await?;
    for step in &plan.install {
        let ran = run_line(cx, Stage::Install, &step.line).await?;
        match (&step.fallback, ran) {
            (_, Ok(())) => {}
            (Some((line, why)), Err(_)) => {
                cx.log.note(why);
                let again = run_line(cx, Stage::Install, line).await?;
                again.map_err(|reason| cx.failed(reason))?;
            }
            (None, Err(reason)) => return Err(cx.failed(reason)),
        }
    }
    if let Some(line) = &plan.build {
        run_line(cx, Stage::Build, line).await?.map_err(|reason| cx.failed(reason))?;
    }
    let artifact = match &plan.serve {
        Serve::Files { folders } => collect_site(cx, &plan, folders).await?,
        Serve::Process { run, port } => {
            let run = RunConfig::new(run.clone(), *port, cx.request);
            collect_app(cx, run).await?
        }
    };
    Ok(Built { artifact, framework: plan.name, evidence: plan.evidence })
}

async fn unpack(cx: &BuildContext<'_>) -> Result<(), BuildError> {
    const DOING: &str = "unpack the source";
    let source = cx.artifacts.get_stream(cx.source).await;
    let source = source.map_err(|error| unavailable(DOING, error))?;
    let writing = cx.guest.write_tar(cx.endpoint, WORKSPACE, source);
    match within(cx.deadlines.unpack, DOING, writing).await? {
        Ok(()) => Ok(()),
        Err(GuestError::NoSpace) => {
            Err(cx.failed("the source does not fit on the build sandbox's disk"))
        }
        // It would be refused again.
        Err(GuestError::Invalid { reason }) => {
            Err(cx.failed(format!("the source could not be unpacked: {reason}")))
        }
        Err(error) => Err(unavailable(DOING, error)),
    }
}

async fn collect_site(
    cx: &BuildContext<'_>,
    plan: &Plan,
    folders: &[String],
) -> Result<Artifact, BuildError> {
    const DOING: &str = "store the site";
    let folder = crate::steps::find_output(cx, plan, folders).await?;
    cx.log.note(&format!("publishing the files in {folder}"));
    let excludes = ["node_modules", ".git"].map(str::to_owned);
    let collecting = async {
        let archive = cx.guest.read_tar(cx.endpoint, &folder, &excludes).await;
        let archive = archive.map_err(|error| unavailable(DOING, error))?;
        site::store_site(cx.artifacts, StreamReader::new(archive), site::Options::default())
            .await
            .map_err(|error| cx.of_archive(DOING, error))
    };
    let (manifest, content) = within(cx.deadlines.collect, DOING, collecting).await??;
    let (files, total_bytes) = (content.files.len() as u64, content.total_bytes());
    cx.log.note(&format!("{files} files, {total_bytes} bytes"));
    Ok(Artifact::Site { manifest, files, total_bytes })
}

/// Everything that was built stays, development packages too: which of them a server needs when
/// it runs cannot be known (`tsx`, `vite` as middleware), and a missing one is a broken app.
async fn collect_app(cx: &BuildContext<'_>, run: RunConfig) -> Result<Artifact, BuildError> {
    const DOING: &str = "store the app";
    cx.log.note(&format!("storing the app; it will be run by `{}`", run.display()));
    let excludes = [".git", "node_modules/.cache", ".next/cache"].map(str::to_owned);
    let options = Repack {
        limits: Limits::APP,
        links: Links::Anywhere,
        prefix: WORKSPACE.trim_start_matches('/'),
        owner: OWNER,
    };
    let collecting = async {
        let archive = cx.guest.read_tar(cx.endpoint, WORKSPACE, &excludes).await;
        let archive = archive.map_err(|error| unavailable(DOING, error))?;
        store_archive(cx.artifacts, StreamReader::new(archive), options)
            .await
            .map_err(|error| cx.of_archive(DOING, error))
    };
    let (layer, totals) = within(cx.deadlines.collect, DOING, collecting).await??;
    cx.log.note(&format!("{} files, {} bytes", totals.files, totals.bytes));
    Ok(Artifact::App { layer, files: totals.files, run })
}

impl BuildContext<'_> {
    pub(crate) fn failed(&self, reason: impl Into<String>) -> BuildError {
        let reason = reason.into();
        self.log.note(&reason);
        BuildError::Failed { reason, log_tail: self.log.tail(TAIL) }
    }

    fn of_archive(&self, doing: &'static str, error: ArchiveError) -> BuildError {
        match error {
            ArchiveError::Refused { reason } => self.failed(reason),
            ArchiveError::Store { source: miosa_artifact::Error::NoSpace } => BuildError::NoSpace,
            other => unavailable(doing, other),
        }
    }
}

pub(crate) fn unavailable(
    action: &'static str,
    error: impl std::error::Error + Send + Sync + 'static,
) -> BuildError {
    BuildError::Unavailable { action, source: Box::new(error) }
}
