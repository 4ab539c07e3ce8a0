//! The words of the platform: ids, names, hosts, sizes, the edge link, and the traits of
//! outgoing I/O.
//!
//! Promises: no I/O, no clock, no randomness of its own (they come in through [`env::Env`]), and
//! no dependency on any other crate of the workspace.

pub mod branding;
pub mod deployment;
pub mod digest;
pub mod dns;
pub mod env;
pub mod guest;
pub mod host;
pub mod id;
pub mod link;
pub mod manifest;
pub mod name;
pub mod probe;
pub mod secret;
pub mod size;

pub use branding::Branding;
pub use digest::Digest;
pub use env::Env;
pub use id::{
    ApiKeyId, DeploymentId, DomainId, EdgeId, EventId, InstallationId, InstanceId, PreviewId,
    PreviewTokenId, ProjectId, SandboxId, TenantId, VersionId, WorkloadId, WorkspaceId,
};
pub use name::{NameError, Slug};
pub use secret::Secret;
pub use size::Size;
