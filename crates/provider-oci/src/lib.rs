//! Runs workloads on this host: an OCI runtime program, an overlay of template and volume, user
//! and network namespaces made ahead, cgroups.

mod cgroup;
mod dns;
mod files;
mod launch;
mod names;
mod network;
mod program;
mod readiness;
mod runtime;
mod seccomp;
mod spec;
mod state;
pub mod rootfs;
pub mod storage;
pub mod userns;
pub mod layers;
pub mod template;
mod sys;
#[cfg(test)]
mod smoke;
