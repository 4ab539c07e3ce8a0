//! Single steps inside the build sandbox.

use std::{collections::BTreeMap, time::Duration};

use futures_util::StreamExt as _;

use miosa_types::guest::{Command, Error as GuestError, FileInfo, FileType, Output};

use crate::{
    WORKSPACE,
    build::{BuildContext, BuildError, unavailable},
    detect::Plan,
    log::LineWriter,
};

/// Which deadline and environment a line has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Install,
    Build,
}

/// The guest ends a process at its deadline; this much later nothing more is expected of it.
const GRACE: Duration = Duration::from_secs(15);
/// Last lines that may say why a command failed.
const LOOKED_AT: usize = 50;

/// Runs a shell line. The inner error is the app's: a sentence for its owner.
pub(crate) async fn run_line(
    cx: &BuildContext<'_>,
    stage: Stage,
    line: &str,
) -> Result<Result<(), String>, BuildError> {
    const DOING: &str = "run a build command";
    let deadline = match stage {
        Stage::Install => cx.deadlines.install,
        Stage::Build => cx.deadlines.build,
    };
    cx.log.line(&format!("$ {line}"));
    let mut command = Command::shell(line);
    command.cwd = Some(WORKSPACE.to_owned());
    command.env = environment(cx, stage);
    command.timeout = Some(deadline);
    let running = async {
        let started = cx.guest.start(cx.endpoint, &command).await;
        let mut output = started.map_err(|error| unavailable(DOING, error))?;
        let mut stdout = LineWriter::new(cx.log);
        let mut stderr = LineWriter::new(cx.log);
        while let Some(event) = output.next().await {
            match event.map_err(|error| unavailable(DOING, error))? {
                Output::Started { .. } => {}
                Output::Stdout(bytes) => stdout.write(&bytes),
                Output::Stderr(bytes) => stderr.write(&bytes),
                Output::Ended { code: 0, timed_out: false } => return Ok(Ok(())),
                Output::Ended { timed_out: true, .. } => {
                    let minutes = deadline.as_secs().div_ceil(60);
                    return Ok(Err(format!("`{line}` took longer than {minutes} minutes")));
                }
                Output::Ended { code, .. } => {
                    return Ok(Err(ended(line, code, &cx.log.tail(LOOKED_AT))));
                }
            }
        }
        Err(unavailable(DOING, std::io::Error::from(std::io::ErrorKind::UnexpectedEof)))
    };
    within(deadline + GRACE, DOING, running).await?
}

/// What a tool says of a full disk and of full memory is worth more than its exit code.
fn ended(line: &str, code: i32, output: &[String]) -> String {
    let says = |part: &str| output.iter().any(|line| line.contains(part));
    match code {
        137 => format!("`{line}` was killed (exit code 137); it probably ran out of memory"),
        _ if says("ENOSPC") || says("No space left on device") => {
            format!("`{line}` failed because the disk of the build sandbox is full")
        }
        _ if says("JavaScript heap out of memory") => format!("`{line}` ran out of memory"),
        127 => format!("`{line}` failed: a command was not found (exit code 127)"),
        129..=192 => format!("`{line}` was ended by signal {}", code - 128),
        _ if code < 0 => format!("`{line}` was killed"),
        _ => format!("`{line}` failed with exit code {code}"),
    }
}

/// `CI` keeps tools from asking questions and drawing progress bars.
fn environment(cx: &BuildContext<'_>, stage: Stage) -> BTreeMap<String, String> {
    let mut env = BTreeMap::from(
        [("CI", "1"), ("NO_COLOR", "1"), ("FORCE_COLOR", "0"), ("NEXT_TELEMETRY_DISABLED", "1")]
            .map(|(name, value)| (name.to_owned(), value.to_owned())),
    );
    if stage == Stage::Build {
        env.insert("NODE_ENV".to_owned(), "production".to_owned());
    }
    env.extend(cx.request.env.clone());
    env
}

/// The absolute path of the first of `folders` that can be published.
pub(crate) async fn find_output(
    cx: &BuildContext<'_>,
    plan: &Plan,
    folders: &[String],
) -> Result<String, BuildError> {
    let mut with_files = None;
    for folder in folders {
        let path = absolute(folder);
        let Some(entries) = entries(cx, &path).await? else { continue };
        if entries.iter().any(|entry| entry.name == "index.html") {
            return Ok(path);
        }
        if !entries.is_empty() && with_files.is_none() {
            with_files = Some(path);
        }
    }
    // A folder without a page is published where it was named, never where it was guessed.
    let is_named = folders.len() == 1;
    if let Some(path) = with_files.filter(|_| is_named) {
        return Ok(path);
    }
    let there = entries(cx, WORKSPACE).await?.unwrap_or_default();
    let names: Vec<_> = there.iter().take(20).map(label).collect();
    let looked: Vec<_> = folders.iter().map(|folder| format!("`{}`", absolute(folder))).collect();
    let after = if plan.build.is_some() { "after the build " } else { "" };
    Err(cx.failed(format!(
        "{after}there is no output folder with files: looked for {}; {WORKSPACE} contains {}",
        looked.join(", "),
        names.join(", "),
    )))
}

fn absolute(folder: &str) -> String {
    if folder.is_empty() { WORKSPACE.to_owned() } else { format!("{WORKSPACE}/{folder}") }
}

fn label(entry: &FileInfo) -> String {
    let slash = if entry.file_type == FileType::Dir { "/" } else { "" };
    format!("{}{slash}", entry.name)
}

/// Entries of a real folder; `None` if there is none (a link does not count: it may point out).
async fn entries(cx: &BuildContext<'_>, path: &str) -> Result<Option<Vec<FileInfo>>, BuildError> {
    const DOING: &str = "look for the output folder";
    const DEADLINE: Duration = Duration::from_secs(30);
    let looking = async {
        match cx.guest.stat(cx.endpoint, path).await {
            Ok(found) if found.file_type == FileType::Dir => {}
            Ok(_) | Err(GuestError::NotFound { .. } | GuestError::Invalid { .. }) => {
                return Ok(None);
            }
            Err(error) => return Err(unavailable(DOING, error)),
        }
        let list = cx.guest.list(cx.endpoint, path, 1).await;
        list.map(Some).map_err(|error| unavailable(DOING, error))
    };
    within(DEADLINE, DOING, looking).await?
}

/// A deadline over a step of the platform's own.
pub(crate) async fn within<T>(
    deadline: Duration,
    doing: &'static str,
    step: impl Future<Output = T>,
) -> Result<T, BuildError> {
    tokio::time::timeout(deadline, step).await.map_err(|late| unavailable(doing, late))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_command_is_told_with_its_reason() {
        for (code, output, expected) in [
            (1, "x", "exit code 1"),
            (1, "npm ERR! code ENOSPC", "disk of the build sandbox is full"),
            (2, "cp: write: No space left on device", "disk of the build sandbox is full"),
            (134, "FATAL ERROR: JavaScript heap out of memory", "ran out of memory"),
            (137, "", "probably ran out of memory"),
            (139, "", "signal 11"),
            (-1, "", "was killed"),
            (127, "vite: not found", "a command was not found"),
        ] {
            let told = ended("npm run build", code, &[output.to_owned()]);
            assert!(told.contains(expected) && !told.contains("-1"), "{code}: {told}");
        }
    }
}
