//! Building a root filesystem: Debian by mmdebstrap, npm packages by the host's npm, then users
//! and files.

use std::{
    io::{self, BufRead as _, Read as _},
    os::unix::fs::{PermissionsExt as _, chown, symlink},
    path::Path,
    process::{Command, Stdio},
};

use super::{Error, Progress, TemplateSpec, sources::Sources};

/// Raised when the same spec and sources would give another root filesystem.
pub(super) const VERSION: u32 = 1;
/// Unit: seconds. A build takes half a minute; a stuck mirror must not hold the lock for ever.
const DEADLINE_S: u32 = 900;
/// Inside every root filesystem.
const UID: u32 = 1000;
/// Not unpacked, by the builder and by tenants' own `apt install`.
const LEFT_OUT: [&str; 5] = [
    "/usr/share/doc/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/share/lintian/*",
    "/usr/share/man/*",
];

/// Builds into `folder`, which holds nothing else: `rootfs` is the result.
pub(super) fn build(
    spec: &TemplateSpec,
    sources: &Sources,
    folder: &Path,
    progress: &Progress<'_>,
) -> Result<(), Error> {
    let rootfs = folder.join("rootfs");
    let prefix = folder.join("npm");
    std::thread::scope(|scope| {
        // Both wait for the network most of the time.
        let npm = scope.spawn(|| install_npm(spec, &prefix, progress));
        debian(spec, sources, folder, progress)?;
        npm.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    progress("adding users and files");
    if prefix.exists() {
        let (from, to) = (prefix.join("."), rootfs.join("usr/local"));
        run(Command::new("cp").arg("-a").arg(from).arg(to), progress)?;
        fs_err::remove_dir_all(&prefix)?;
    }
    add_user(spec, &rootfs, progress)?;
    plain_files(spec, &rootfs)?;
    for path in &spec.remove {
        remove(&rootfs.join(path))?;
    }
    Ok(())
}

fn debian(
    spec: &TemplateSpec,
    sources: &Sources,
    folder: &Path,
    progress: &Progress<'_>,
) -> Result<(), Error> {
    progress("installing Debian packages");
    let mut command = timed("mmdebstrap");
    command.args(["--mode=root", "--variant=minbase", "--format=directory"]);
    for path in LEFT_OUT {
        command.arg(format!("--dpkgopt=path-exclude={path}"));
    }
    // The licences stay.
    command.arg("--dpkgopt=path-include=/usr/share/doc/*/copyright");
    let settings = folder.join("apt.conf");
    fs_err::write(&settings, apt_settings()?)?;
    command.arg(format!("--aptopt={}", settings.display()));
    if !spec.packages.is_empty() {
        command.arg(format!("--include={}", spec.packages.join(",")));
    }
    command.arg(&spec.suite).arg(folder.join("rootfs"));
    for (name, text) in [("host.list", &sources.lines), ("host.sources", &sources.stanzas)] {
        if !text.is_empty() {
            fs_err::write(folder.join(name), text)?;
            command.arg(folder.join(name));
        }
    }
    run(&mut command, progress)?;
    for name in ["apt.conf", "host.list", "host.sources"] {
        remove(&folder.join(name))?;
    }
    Ok(())
}

/// How the host's apt reaches its sources: proxies and certificates. mmdebstrap does not look at
/// the host's settings by itself.
fn apt_settings() -> Result<String, Error> {
    let output = Command::new("apt-config").arg("dump").stdin(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let is_wanted = |line: &&str| {
        let name = line.split(' ').next().unwrap_or_default().to_ascii_lowercase();
        let is_transport =
            name.starts_with("acquire::http") || name.starts_with("acquire::retries");
        is_transport && !line.ends_with("\"\";")
    };
    let kept = text.lines().filter(is_wanted);
    Ok(kept.fold("Acquire::Languages \"none\";\n".to_owned(), |text, line| text + line + "\n"))
}

fn install_npm(spec: &TemplateSpec, prefix: &Path, progress: &Progress<'_>) -> Result<(), Error> {
    if spec.npm.is_empty() {
        return Ok(());
    }
    progress("installing npm packages");
    fs_err::create_dir_all(prefix)?;
    let mut command = timed("npm");
    // Install scripts would run on the host, as root.
    command.args(["install", "--global", "--ignore-scripts", "--no-audit", "--no-fund"]);
    command.args(["--loglevel=error", "--no-update-notifier"]);
    command.arg("--prefix").arg(prefix);
    command.args(spec.npm.iter().map(|(name, version)| format!("{name}@{version}")));
    run(&mut command, progress)
}

fn add_user(spec: &TemplateSpec, rootfs: &Path, progress: &Progress<'_>) -> Result<(), Error> {
    if spec.user != "root" {
        let mut command = Command::new("chroot");
        command.arg(rootfs).args(["useradd", "--create-home", "--user-group"]);
        command.args(["--uid", "1000", "--shell", "/bin/bash", &spec.user]);
        run(&mut command, progress)?;
        let sudoers = rootfs.join("etc/sudoers.d");
        if sudoers.is_dir() {
            let rule = format!("{} ALL=(ALL) NOPASSWD:ALL\n", spec.user);
            write(&sudoers.join(&spec.user), &rule, 0o440)?;
        }
    }
    let workdir = rootfs.join(spec.workdir.trim_start_matches('/'));
    fs_err::create_dir_all(&workdir)?;
    let owner = owner_id(spec, &spec.user);
    Ok(chown(&workdir, Some(owner), Some(owner))?)
}

/// Ids inside.
fn owner_id(spec: &TemplateSpec, owner: &str) -> u32 {
    if owner == spec.user && owner != "root" { UID } else { 0 }
}

/// What mmdebstrap took from the host must not be seen by tenants; then the spec's own files.
fn plain_files(spec: &TemplateSpec, rootfs: &Path) -> Result<(), Error> {
    let etc = rootfs.join("etc");
    write(&etc.join("hosts"), "127.0.0.1 localhost\n::1 localhost ip6-localhost\n", 0o644)?;
    write(&etc.join("hostname"), "localhost\n", 0o644)?;
    write(&etc.join("resolv.conf"), "", 0o644)?;
    write(&etc.join("machine-id"), "", 0o444)?;
    // Holds the host's proxy settings, if any.
    remove(&etc.join("apt/apt.conf.d/99mmdebstrap"))?;
    write(&etc.join("apt/apt.conf.d/99lean"), "Acquire::Languages \"none\";\n", 0o644)?;
    if !rootfs.join("usr/bin/python").exists() && rootfs.join("usr/bin/python3").exists() {
        symlink("python3", rootfs.join("usr/bin/python"))?;
    }
    for file in &spec.files {
        let path = rootfs.join(file.path.trim_start_matches('/'));
        if let Some(parent) = path.parent() {
            fs_err::create_dir_all(parent)?;
        }
        write(&path, &file.content, file.bits().unwrap_or(0o644))?;
        let owner = owner_id(spec, &file.owner);
        chown(&path, Some(owner), Some(owner))?;
    }
    Ok(())
}

/// Replaces what is there, so that a link in the root filesystem is not followed to the host.
fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    remove(path)?;
    fs_err::write(path, text)?;
    fs_err::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

fn remove(path: &Path) -> io::Result<()> {
    let result = match fs_err::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs_err::remove_dir_all(path),
        Ok(_) => fs_err::remove_file(path),
        Err(error) => Err(error),
    };
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// `program` under a deadline; it and its children get SIGTERM, then SIGKILL.
fn timed(program: &str) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=10", &DEADLINE_S.to_string(), program]);
    command
}

/// Runs a program; its lines are progress and, if it fails, the last of them the reason.
fn run(command: &mut Command, progress: &Progress<'_>) -> Result<(), Error> {
    const KEPT: usize = 15;
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let step = words
        .map(|word| word.to_string_lossy().into_owned())
        .find(|word| word != "timeout" && word.parse::<u32>().is_err() && !word.starts_with('-'))
        .unwrap_or_default();
    let failed = |reason: String| Error::Build { step: step.clone(), reason };
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let mut last: std::collections::VecDeque<String> = std::collections::VecDeque::new();
    if let Some(stderr) = child.stderr.take() {
        for line in io::BufReader::new(stderr.take(16 << 20)).split(b'\n') {
            let line = String::from_utf8_lossy(&line?).trim().to_owned();
            if let Some(news) = line.strip_prefix("I: ") {
                progress(news);
            }
            if last.len() == KEPT {
                last.pop_front();
            }
            last.push_back(line);
        }
    }
    let status = child.wait()?;
    if status.success() {
        return Ok(());
    }
    let mut reason: String = Vec::from(last).join("\n");
    if status.code() == Some(127) {
        reason = format!("`{step}` is not installed: apt-get install {step}");
    }
    Err(failed(format!("{status}: {reason}")))
}
