//! Starting one instance, and removing what is left of one.

use std::{
    collections::BTreeMap,
    io,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::PermissionsExt,
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::Timestamp;
use miosa_provider::{Confinement, WorkloadSpec};
use miosa_types::{InstanceId, Secret, Size};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::json;

use crate::{
    files, host,
    host::Host,
    network::Netns,
    program, rootfs,
    runtime::Start,
    spec::{self, Input},
    state::{InstanceRecord, Process},
    template::Template,
    userns::Userns,
};

use super::failure::Failure;

/// What to start.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    /// The workload.
    pub(crate) spec: WorkloadSpec,
    /// Limits, which may be lower than the spec's since a claim.
    pub(crate) size: Size,
    /// The instance.
    pub(crate) instance: InstanceId,
    /// When it began.
    pub(crate) started_at: Timestamp,
    /// Its template.
    pub(crate) template: Template,
}

/// What was started.
#[derive(Debug)]
pub(crate) struct Started {
    /// Kept on disk already.
    pub(crate) record: InstanceRecord,
    /// Holds its network namespace.
    pub(crate) netns: OwnedFd,
    /// Its PID 1; `None` if that has ended already.
    pub(crate) pidfd: Option<OwnedFd>,
}

/// Starts an instance. After an error nothing of it is left.
pub(crate) async fn start(host: &Arc<Host>, order: Order) -> Result<Started, Failure> {
    let _permit = host.starts.acquire().await.map_err(io::Error::other)?;
    let mut lowers = vec![order.template.rootfs.clone()];
    if let Some(digest) = order.spec.root.layer {
        lowers.insert(0, host.layers.ensure(digest).await.map_err(Failure::layer)?);
    }
    let Netns { fd: netns, address } = host.network.take().await?;
    let record = InstanceRecord {
        instance: order.instance,
        workload: order.spec.key.workload,
        revision: order.spec.key.revision,
        token: Secret::new(host.env.token(32)),
        address,
        userns_base: 0,
        template: order.template.digest,
        process: None,
        started_at: order.started_at,
        ready_at: None,
        is_draining: false,
        exit: None,
    };
    let work = {
        let (host, record) = (Arc::clone(host), record.clone());
        move || {
            let attempt = || {
                let userns = host.userns.take().map_err(io::Error::other)?;
                let record = InstanceRecord { userns_base: userns.base, ..record.clone() };
                let launched = launch(&host, &order, &lowers, &netns, &userns, record.clone());
                if launched.is_err() {
                    clean(&host, &record)?;
                }
                launched
            };
            let launched = match attempt() {
                // A guest alone runs nothing before it is asked to, and nobody knew of it yet. A
                // command may have run, and the plan starts it again if that is wanted.
                Err(error) if order.spec.command.is_none() => {
                    let instance = order.instance;
                    tracing::warn!(%instance, %error, "a start failed; trying once more");
                    attempt()
                }
                launched => launched,
            };
            launched.map(|(record, pidfd)| Started { record, netns, pidfd })
        }
    };
    let done = tokio::task::spawn_blocking(work).await.map_err(io::Error::other).flatten();
    if done.is_err() {
        // The descriptor is closed, so only route and address are left.
        host.network.release(address, None).await?;
        host.state.remove_instance(record.instance)?;
    }
    Ok(done?)
}

/// Blocks; about 15 ms.
#[expect(clippy::too_many_arguments, reason = "each is a different thing that was prepared")]
fn launch(
    host: &Host,
    order: &Order,
    lowers: &[PathBuf],
    netns: &OwnedFd,
    userns: &Userns,
    mut record: InstanceRecord,
) -> io::Result<(InstanceRecord, Option<OwnedFd>)> {
    // Kept before there is anything, so that a start cut short is cleaned up later.
    host.state.save_instance(&record)?;
    let id = record.instance.simple();
    let bundle = host::bundle(&host.names, &id);
    let target = bundle.join("rootfs");
    fs_err::create_dir_all(&target)?;
    let volume = host.storage.create(&id, order.size.disk_mib.into()).map_err(io::Error::other)?;
    if order.spec.confinement == Confinement::Sandbox {
        host.storage.yields(&id, order.size.disk_mib.into()).map_err(io::Error::other)?;
    }
    write_etc(&volume.upper, &order.spec.hostname, &record, host)?;
    let output = files::create_append(&host.state.log(record.instance))?;
    let exit = files::create_append(&host.state.exit(record.instance))?;
    let here = format!("/proc/{}/fd", std::process::id());
    let filter = host.runtime.filter();
    let config = spec::config(&Input {
        rootfs: &target,
        hostname: &order.spec.hostname,
        env: &environment(order, &record),
        confinement: order.spec.confinement,
        size: order.size,
        has_swap_limit: host.runtime.cgroups().has_swap_limit(),
        userns: (&format!("{here}/{}", userns.fd.as_raw_fd()), userns.base),
        netns: &format!("{here}/{}", netns.as_raw_fd()),
        cgroup: &host.names.instance_cgroup(record.instance),
        guest: &host.shared.guest,
        ca_bundle: host.shared.ca_bundle_for(&order.template.rootfs),
        filter: filter.as_deref(),
        host: host.limits,
    });
    let start = Start { id: &id, bundle: &bundle, config: &config, output: &output, exit: &exit };
    let mount = || rootfs::mount(lowers, &volume, userns, &target);
    let pid = host.runtime.start(&start, mount)?;
    let pidfd = open_pid(pid)?;
    record.process = Process::look(pid).ok();
    host.state.save_instance(&record)?;
    Ok((record, pidfd))
}

/// `None` if there is no such process.
pub(crate) fn open_pid(pid: u32) -> io::Result<Option<OwnedFd>> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    match pidfd_open(pid, PidfdFlags::NONBLOCK) {
        Ok(fd) => Ok(Some(fd)),
        Err(rustix::io::Errno::SRCH) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What the guest reads, in addition to the template's environment.
fn environment(order: &Order, record: &InstanceRecord) -> BTreeMap<String, String> {
    let template = &order.template.spec;
    let mut env: BTreeMap<String, String> = template.env.clone().into_iter().collect();
    env.insert("GUEST_TOKEN".into(), record.token.expose().to_owned());
    env.insert("GUEST_USER".into(), template.user.clone());
    env.insert("GUEST_WORKDIR".into(), template.workdir.clone());
    if let Some(command) = &order.spec.command {
        let user = match order.spec.confinement {
            Confinement::Sandbox => Some(template.user.clone()),
            Confinement::Runtime => None,
        };
        let command = json!({
            "argv": command.argv,
            "cwd": command.cwd,
            "env": command.env,
            "user": user,
        });
        env.insert("GUEST_COMMAND".into(), command.to_string());
    }
    env
}

/// Writes host name, hosts and resolver into the volume before it is mounted. They are ordinary
/// files there: root inside may change them, as on any machine, and the guest does when the host
/// name changes; and the mount table names no place of the host.
fn write_etc(upper: &Path, hostname: &str, record: &InstanceRecord, host: &Host) -> io::Result<()> {
    let etc = upper.join("etc");
    fs_err::create_dir_all(&etc)?;
    fs_err::set_permissions(&etc, PermissionsExt::from_mode(0o755))?;
    let hosts = format!("127.0.0.1\tlocalhost\n{}\t{hostname}\n", record.address);
    let resolver = format!("nameserver {}\n", host.network.subnet().gateway());
    for (name, text) in
        [("hostname", format!("{hostname}\n")), ("hosts", hosts), ("resolv.conf", resolver)]
    {
        let path = etc.join(name);
        fs_err::write(&path, text)?;
        fs_err::set_permissions(&path, PermissionsExt::from_mode(0o644))?;
    }
    Ok(())
}

/// Removes everything of an instance but its record and its network. Its PID 1 must have ended,
/// or it is ended here. Blocks.
pub(crate) fn clean(host: &Host, record: &InstanceRecord) -> io::Result<()> {
    let id = record.instance.simple();
    let group = host.names.instance_cgroup(record.instance);
    let cgroups = host.runtime.cgroups();
    for pid in cgroups.processes(&group) {
        program::kill(pid);
        program::wait(pid, std::time::Duration::from_secs(1)).ok();
    }
    // Each is tried, so that one fault does not leave the rest behind.
    let done = [
        cgroups.remove(&group),
        host.runtime.forget(&id),
        host::remove_bundle(&host.names, &id),
        host.storage.remove(&id).map_err(io::Error::other),
    ];
    if record.userns_base > 0 {
        host.userns.release(record.userns_base);
    }
    done.into_iter().collect()
}
