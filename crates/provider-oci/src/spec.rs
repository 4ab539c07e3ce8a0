//! The runtime program's configuration of one instance (OCI runtime specification 1.0). Pure.
//!
//! Promises (design §10): no capability in the initial user namespace; a sandbox has the usual
//! container set inside its own, so that root, sudo and apt work; a runtime instance has none, no
//! new privileges, and is not root; no /sys; nested user namespaces are off twice (seccomp here,
//! the limit of the user namespace elsewhere).

use std::{collections::BTreeMap, path::Path};

use miosa_provider::Confinement;
use miosa_types::Size;
use serde_json::{Value, json};

use crate::{
    cgroup::{Limits, PERIOD_US},
    seccomp,
};

/// Where the guest is seen inside.
pub(crate) const GUEST: &str = "/usr/sbin/guest";
/// Where the host's CA bundle is seen inside. Not the distribution's own file: updates of the
/// package replace that by rename, which a mount point refuses.
pub(crate) const CA_BUNDLE: &str = "/etc/ssl/trusted.pem";
/// Variables that lead programs to [`CA_BUNDLE`].
const CA_VARIABLES: [&str; 6] = [
    "SSL_CERT_FILE",
    "NODE_EXTRA_CA_CERTS",
    "PIP_CERT",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
];
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Uid and gid of the default user.
const USER: u32 = 1000;

/// The set that container programs give by default. Harmless: the network namespace belongs to
/// the initial user namespace, and without the whole set `ping` could not be executed.
const CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

const MASKED: [&str; 10] = [
    "/proc/acpi",
    "/proc/cmdline",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/partitions",
    "/proc/scsi",
    "/proc/sched_debug",
    "/proc/timer_list",
    "/proc/timer_stats",
];

const READ_ONLY: [&str; 6] =
    ["/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What the configuration is made from.
#[derive(Debug)]
pub(crate) struct Input<'a> {
    /// Mounted root filesystem.
    pub(crate) rootfs: &'a Path,
    /// Host name inside.
    pub(crate) hostname: &'a str,
    /// Environment of the guest.
    pub(crate) env: &'a BTreeMap<String, String>,
    /// What processes may do.
    pub(crate) confinement: Confinement,
    /// Limits.
    pub(crate) size: Size,
    /// Whether swap can be limited.
    pub(crate) has_swap_limit: bool,
    /// Path of the user namespace and the host's id of its root.
    pub(crate) userns: (&'a str, u32),
    /// Path of the network namespace.
    pub(crate) netns: &'a str,
    /// Cgroup, relative to a hierarchy's root.
    pub(crate) cgroup: &'a Path,
    /// The guest's binary on the host.
    pub(crate) guest: &'a Path,
    /// The host's CA bundle, if it is to be trusted.
    pub(crate) ca_bundle: Option<&'a Path>,
    /// The compiled filter, if there is one already.
    pub(crate) filter: Option<&'a str>,
    /// What this process may set.
    pub(crate) host: Host,
}

/// What this process may set for its children.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Host {
    /// Hard limit of open files.
    pub(crate) open_files: u64,
    /// Whether an oom score's lower bound can be raised (`CAP_SYS_RESOURCE`).
    pub(crate) can_set_oom_score: bool,
}

/// Makes the configuration.
pub(crate) fn config(input: &Input<'_>) -> Value {
    let mut process = process(input);
    if input.host.can_set_oom_score {
        process["oomScoreAdj"] = json!(500);
    }
    let mut annotations = BTreeMap::new();
    if let Some(filter) = input.filter {
        annotations.insert("run.oci.seccomp_bpf_data", filter);
    }
    let (userns, base) = input.userns;
    let ids = json!([{ "containerID": 0, "hostID": base, "size": 65_536 }]);
    json!({
        "ociVersion": "1.0.0",
        "process": process,
        "root": { "path": input.rootfs, "readonly": false },
        "hostname": input.hostname,
        "annotations": annotations,
        "mounts": mounts(input),
        "linux": {
            "namespaces": [
                { "type": "user", "path": userns },
                { "type": "network", "path": input.netns },
                { "type": "pid" },
                { "type": "mount" },
                { "type": "ipc" },
                { "type": "uts" },
                { "type": "cgroup" },
            ],
            "uidMappings": ids,
            "gidMappings": ids,
            "cgroupsPath": Path::new("/").join(input.cgroup),
            "resources": resources(input.size, input.has_swap_limit),
            "seccomp": seccomp::profile(),
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
        },
    })
}

fn process(input: &Input<'_>) -> Value {
    let is_runtime = input.confinement == Confinement::Runtime;
    let (uid, capabilities) = if is_runtime { (USER, &[][..]) } else { (0, &CAPABILITIES[..]) };
    let none: [&str; 0] = [];
    let mut env = input.env.clone();
    env.entry("PATH".into()).or_insert_with(|| PATH.into());
    if input.ca_bundle.is_some() {
        for name in CA_VARIABLES {
            env.entry(name.into()).or_insert_with(|| CA_BUNDLE.into());
        }
    }
    let env: Vec<String> = env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    json!({
        "terminal": false,
        "user": { "uid": uid, "gid": uid },
        "args": [GUEST],
        "env": env,
        "cwd": "/",
        "noNewPrivileges": is_runtime,
        "capabilities": {
            "bounding": capabilities,
            "effective": capabilities,
            "permitted": capabilities,
            "inheritable": none,
            "ambient": none,
        },
        "rlimits": [
            {
                "type": "RLIMIT_NOFILE",
                "hard": input.host.open_files.min(65_536),
                "soft": input.host.open_files.min(65_536),
            },
            { "type": "RLIMIT_CORE", "hard": 0, "soft": 0 },
        ],
    })
}

fn mounts(input: &Input<'_>) -> Vec<Value> {
    let mount = |destination: &str, kind: &str, options: &[&str]| json!({ "destination": destination, "type": kind, "source": kind, "options": options });
    let file = |source: &Path, destination: &str| {
        let options = ["bind", "ro", "nosuid", "nodev"];
        json!({ "destination": destination, "type": "bind", "source": source, "options": options })
    };
    let pts = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"];
    let shm = ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"];
    let mut mounts = vec![
        mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("/dev/pts", "devpts", &pts),
        mount("/dev/shm", "tmpfs", &shm),
        mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        file(input.guest, GUEST),
    ];
    mounts.extend(input.ca_bundle.map(|bundle| file(bundle, CA_BUNDLE)));
    mounts
}

fn resources(size: Size, has_swap_limit: bool) -> Value {
    let limits = Limits::of(size);
    let mut memory = json!({ "limit": limits.memory });
    if has_swap_limit {
        memory["swap"] = json!(limits.memory);
    }
    json!({
        "memory": memory,
        "pids": { "limit": limits.pids },
        "cpu": {
            "shares": limits.cpu_shares(),
            "quota": limits.cpu_quota_us,
            "period": PERIOD_US,
        },
        "devices": [{ "allow": false, "access": "rwm" }],
    })
}
