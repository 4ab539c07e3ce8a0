//! States of deployments, versions and runtime instances, as the API names them.

use serde::{Deserialize, Serialize};

/// How a version is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VersionKind {
    /// Files from the artifact store; no process.
    Static,
    /// Runtime instances.
    Dynamic,
}

/// Where a version is in its life; it only moves forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VersionState {
    /// Its artifact is being made.
    Building,
    /// It can be served, now and after any rollback.
    Ready,
    /// Its build failed, or it never served.
    Failed,
    /// Its artifact was deleted by the retention rule.
    Archived,
}

/// What was observed of a runtime instance (design §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstanceState {
    /// Being prepared.
    Provisioning,
    /// Its process runs; it does not answer yet.
    Starting,
    /// It answers.
    Healthy,
    /// It is suspect.
    Unhealthy,
    /// It exited or is lost.
    Error,
    /// It drains.
    Stopped,
    /// It is gone.
    Destroyed,
}

macro_rules! words {
    ($type:ident: $($variant:ident = $word:literal),*) => {
        impl $type {
            /// The word in the API and in the database.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }

            /// The state of that word.
            pub fn parse(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

words!(VersionKind: Static = "static", Dynamic = "dynamic");
words!(VersionState: Building = "building", Ready = "ready", Failed = "failed",
       Archived = "archived");
words!(InstanceState: Provisioning = "provisioning", Starting = "starting", Healthy = "healthy",
       Unhealthy = "unhealthy", Error = "error", Stopped = "stopped", Destroyed = "destroyed");

impl VersionState {
    /// Whether a deployment may make a version in this state its active one.
    pub const fn can_be_activated(self) -> bool {
        matches!(self, Self::Ready)
    }
}
