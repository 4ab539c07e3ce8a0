//! The edge link: what control tells every edge, and what an edge tells back (design §5).
//!
//! Control serves it, edges dial it; the same bytes travel over a Unix socket or mTLS. A frame is
//! a 4-byte big-endian length and that many bytes of JSON, at most [`MAX_FRAME`]. The first frame
//! of a connection is a [`Hello`] from the edge; it decides what the connection is:
//!
//! - `Hello::Link`: control answers with [`Down`] frames, the edge sends [`Up`] frames.
//! - `Hello::Blob`: control answers with one [`BlobHead`] and, if the blob is there, its raw
//!   bytes; then it waits for the next `Hello::Blob` on the same connection.
//!
//! Promises: the snapshot is complete; a delta applies to exactly the sequence number before it;
//! a gap or a new epoch means that a snapshot follows. What an edge holds is only what came over
//! this link, so it serves with control and database dead.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    branding::Branding,
    digest::Digest,
    host::Domains,
    id::{DeploymentId, EdgeId, InstanceId, SandboxId, TenantId, VersionId, WorkspaceId},
};

/// Longest frame in bytes.
pub const MAX_FRAME: usize = 64 * 1024 * 1024;

/// How long an edge counts as present after its last frame, in seconds. An edge sends
/// [`Up::Beat`] at least every third of it.
pub const LEASE_S: u64 = 10;

/// First frame of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "hello", rename_all = "snake_case")]
pub enum Hello {
    /// Opens the stream of routes. `at` is what the edge already holds, if anything.
    Link {
        /// Stable over restarts of that edge.
        edge: EdgeId,
        /// Last applied position; control sends deltas from there if it can, else a snapshot.
        at: Option<Position>,
    },
    /// Asks for one blob: a file of a site, a manifest, a certificate chain or key.
    Blob {
        /// Its name.
        digest: Digest,
    },
}

/// A point in the history of the route table. `seq` counts within one `epoch` of control.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// Changes with each start of control.
    pub epoch: u64,
    /// Raised by one with each delta.
    pub seq: u64,
}

/// Control to edge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "down", rename_all = "snake_case")]
pub enum Down {
    /// Everything; replaces what the edge holds.
    Snapshot {
        /// Position after it.
        at: Position,
        /// All entries, one for each key.
        entries: Vec<Entry>,
    },
    /// Changes since `seq - 1` of the same epoch.
    Delta {
        /// Position after it.
        seq: u64,
        /// Entries that are new or changed.
        upserts: Vec<Entry>,
        /// Keys that are gone.
        removes: Vec<Key>,
    },
    /// Nothing changed; proves that control is there.
    Beat,
}

/// Edge to control.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "up", rename_all = "snake_case")]
pub enum Up {
    /// Every entry up to `seq` is live at this edge.
    Applied {
        /// Position reached in the epoch of the last snapshot.
        seq: u64,
    },
    /// One entry could not go live; the old one, if any, keeps serving.
    NotApplied {
        /// Which.
        key: Key,
        /// Why, for the operator.
        why: String,
    },
    /// Requests that this edge has under way on a draining replica: sent once for each after the
    /// entry was applied (0 included), after each new link, and when it changes.
    InFlight {
        /// The replica.
        instance: InstanceId,
        /// How many.
        count: u32,
    },
    /// A replica did not send a first byte for too long, or refused a connection.
    Suspect {
        /// The replica.
        instance: InstanceId,
    },
    /// Someone asks for an app that is asleep.
    Wake {
        /// The app.
        app: DeploymentId,
    },
    /// Keeps the lease.
    Beat,
}

/// Head of a blob answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "blob", rename_all = "snake_case")]
pub enum BlobHead {
    /// `size` raw bytes follow.
    Found {
        /// Length in bytes.
        size: u64,
    },
    /// No such blob.
    Missing,
}

/// Names one entry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Key {
    /// [`Entry::Settings`].
    Settings,
    /// [`Entry::Route`] by host.
    Route(String),
    /// [`Entry::App`].
    App(DeploymentId),
    /// [`Entry::Sandbox`].
    Sandbox(SandboxId),
    /// [`Entry::Brand`].
    Brand(Branded),
    /// [`Entry::Certificate`] by the digest of its chain.
    Certificate(Digest),
}

/// One row of what an edge knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "snake_case")]
pub enum Entry {
    /// What holds for the whole installation.
    Settings(Settings),
    /// A host and what answers it.
    Route(Route),
    /// An app with processes.
    App(App),
    /// A sandbox whose ports can be reached.
    Sandbox(Sandbox),
    /// How a tenant's pages look.
    Brand(Brand),
    /// A certificate.
    Certificate(Certificate),
}

impl Entry {
    /// Its name.
    pub fn key(&self) -> Key {
        match self {
            Self::Settings(_) => Key::Settings,
            Self::Route(route) => Key::Route(route.host.clone()),
            Self::App(app) => Key::App(app.app),
            Self::Sandbox(sandbox) => Key::Sandbox(sandbox.sandbox),
            Self::Brand(brand) => Key::Brand(brand.owner),
            Self::Certificate(certificate) => Key::Certificate(certificate.chain),
        }
    }
}

/// Installation-wide facts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Domains of the installation; hosts at and below `base` (consoles) are the API's.
    pub domains: Domains,
    /// Console domains that tenants brought.
    pub console_hosts: Vec<String>,
    /// Serve apps on plain HTTP instead of answering 308.
    pub plain_http: bool,
}

/// Who has a brand: a tenant, or one of its workspaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Branded {
    /// The tenant.
    pub tenant: TenantId,
    /// The workspace, if it has a brand of its own.
    pub workspace: Option<WorkspaceId>,
}

impl From<TenantId> for Branded {
    fn from(tenant: TenantId) -> Self {
        Self { tenant, workspace: None }
    }
}

/// What answers a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Lower-case name without port. For a sandbox: what stands behind `<port>-`.
    pub host: String,
    /// Whose brand its pages carry.
    pub owner: Branded,
    /// What answers.
    pub target: Target,
}

/// What stands behind a host. Production targets are made from versions only: there is no way to
/// name a sandbox in `Static` or `App`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "target", rename_all = "snake_case")]
pub enum Target {
    /// Files of one version.
    Static {
        /// The version.
        version: VersionId,
        /// Blob that holds its [`crate::manifest::SiteManifest`].
        manifest: Digest,
    },
    /// The replicas of an [`Entry::App`].
    App {
        /// Its deployment.
        app: DeploymentId,
    },
    /// The ports of an [`Entry::Sandbox`]; the host in the table lacks the port label.
    Preview {
        /// The sandbox.
        sandbox: SandboxId,
    },
    /// The tenant's page that says that nothing is here. For `*.` hosts, which answer for every
    /// name one label below that has no route of its own.
    Nothing,
    /// 308 to another host, same path.
    Redirect {
        /// That host.
        to: String,
    },
}

/// An app with processes, as the edge needs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct App {
    /// Its deployment.
    pub app: DeploymentId,
    /// Whose it is.
    pub owner: Branded,
    /// Whether requests are sent, held or answered with a page.
    pub availability: Availability,
    /// How long a request may be held, in seconds (0 to 120, default 30).
    pub hold_s: u32,
    /// All replicas of one version; draining ones take no new requests.
    pub replicas: Vec<Replica>,
}

/// One address that serves an app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    /// The runtime instance.
    pub instance: InstanceId,
    /// Where it listens.
    pub addr: SocketAddr,
    /// Ready or draining.
    pub state: ReplicaState,
}

/// Whether a replica takes new requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplicaState {
    /// Yes.
    Ready,
    /// No; the edge reports [`Up::InFlight`] until it reaches 0.
    Draining,
}

/// What an edge does with a request for which no replica is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Availability {
    /// Send; hold if every replica refuses.
    Ready,
    /// Hold.
    Starting {
        /// Since when.
        since: Timestamp,
    },
    /// Hold if it ends within the hold limit, else the page.
    Backoff {
        /// When the next attempt begins.
        until: Timestamp,
    },
    /// Send [`Up::Wake`] and hold.
    Asleep,
    /// The page.
    Stopped,
    /// The page.
    Failed,
}

/// A sandbox whose ports can be reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// The sandbox.
    pub sandbox: SandboxId,
    /// Whose it is.
    pub tenant: TenantId,
    /// Its address while it runs; any port of it may be asked for except the guest's.
    pub addr: Option<IpAddr>,
    /// Who may see its ports.
    pub access: Access,
}

/// Who may see the ports of a sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// Whether only holders of a grant see its ports.
    pub is_private: bool,
    /// Ports for which it is the other way round.
    pub except: BTreeSet<u16>,
    /// Who holds a grant.
    pub grants: Vec<Grant>,
    /// Pages that may show its ports in a frame (CSP `frame-ancestors`); empty: any.
    pub frame_ancestors: Vec<String>,
}

impl Access {
    /// Whether a port needs a grant.
    pub fn is_private(&self, port: u16) -> bool {
        self.is_private != self.except.contains(&port)
    }
}

/// What the holder of a token may see. The token itself never travels here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// SHA-256 of the token.
    pub token: Digest,
    /// The port; `None`: all of the sandbox.
    pub port: Option<u16>,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// How the pages of a tenant, or of one of its workspaces, look.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Brand {
    /// Whose it is.
    pub owner: Branded,
    /// The whole brand: what a workspace leaves open is its tenant's.
    pub branding: Branding,
}

/// A certificate; chain and key are blobs, so that they travel once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Exact names and `*.` names that it covers.
    pub names: Vec<String>,
    /// PEM chain, leaf first.
    pub chain: Digest,
    /// PEM private key (PKCS #8).
    pub key: Digest,
    /// End of validity.
    pub not_after: Timestamp,
}

/// All entries by key: what a snapshot means. Used by both ends, so that they agree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table(pub BTreeMap<Key, Entry>);

impl Table {
    /// The table that a snapshot describes.
    pub fn from_entries(entries: Vec<Entry>) -> Self {
        Self(entries.into_iter().map(|entry| (entry.key(), entry)).collect())
    }

    /// Applies a delta.
    pub fn apply(&mut self, upserts: Vec<Entry>, removes: &[Key]) {
        for key in removes {
            self.0.remove(key);
        }
        for entry in upserts {
            self.0.insert(entry.key(), entry);
        }
    }

    /// The delta that leads from `self` to `next`.
    pub fn delta_to(&self, next: &Self) -> (Vec<Entry>, Vec<Key>) {
        let is_changed = |(key, entry): &(&Key, &Entry)| self.0.get(*key) != Some(*entry);
        let upserts = next.0.iter().filter(is_changed).map(|(_, entry)| entry.clone()).collect();
        let removes = self.0.keys().filter(|key| !next.0.contains_key(*key)).cloned().collect();
        (upserts, removes)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn route(host: &str, version: u128) -> Entry {
        Entry::Route(Route {
            host: host.to_owned(),
            owner: TenantId::from_uuid(Uuid::from_u128(1)).into(),
            target: Target::Static {
                version: VersionId::from_uuid(Uuid::from_u128(version)),
                manifest: Digest::of(b"m"),
            },
        })
    }

    #[test]
    fn a_delta_leads_from_one_table_to_the_other() {
        let mut old = Table::from_entries(vec![route("a", 1), route("b", 1)]);
        let new = Table::from_entries(vec![route("b", 2), route("c", 1)]);
        let (upserts, removes) = old.delta_to(&new);
        assert_eq!((upserts.len(), removes.len()), (2, 1));
        old.apply(upserts, &removes);
        assert_eq!(old, new);
    }

    #[test]
    fn frames_read_back() {
        let frame =
            Down::Snapshot { at: Position { epoch: 1, seq: 2 }, entries: vec![route("a", 1)] };
        let text = serde_json::to_string(&frame).unwrap();
        assert_eq!(serde_json::from_str::<Down>(&text).unwrap(), frame);
        let removes = vec![Key::Route("a".into()), Key::Settings];
        let frame = Down::Delta { seq: 3, upserts: vec![], removes };
        let text = serde_json::to_string(&frame).unwrap();
        assert_eq!(serde_json::from_str::<Down>(&text).unwrap(), frame);
    }
}
