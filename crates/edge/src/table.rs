//! The live table: what the edge answers from, at this moment.
//!
//! Only entries that can be served get in: a site whose files are all on this disk, a
//! certificate that was read. Each entry comes and goes alone, so a bad one harms no other.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use arc_swap::ArcSwapOption;
use miosa_types::{
    Branding, DeploymentId, Digest, SandboxId,
    link::{self, Branded, Entry, Key, Settings},
    manifest::SiteManifest,
};
use tokio_util::sync::CancellationToken;

use crate::{
    access::Gate,
    balance::{App, Replica},
    shard::Sharded,
    tls::Certified,
};

/// A host and what answers it.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) owner: Branded,
    pub(crate) target: Target,
    is_replaced: AtomicBool,
}

impl Route {
    /// Whether its host answers by something else now, so that whoever waits must look again.
    /// It is the route's affair, not the app's: an app may have other hosts.
    pub(crate) fn is_replaced(&self) -> bool {
        self.is_replaced.load(Relaxed)
    }

    fn is_same(&self, owner: Branded, target: &Target) -> bool {
        let is_same_app = match (&self.target, target) {
            (Target::App(one), Target::App(other)) => one == other,
            _ => false,
        };
        is_same_app && self.owner == owner
    }
}

/// What answers a host, ready to be used.
#[derive(Debug)]
pub(crate) enum Target {
    Static(Arc<SiteManifest>),
    App(DeploymentId),
    Preview(SandboxId),
    Redirect(String),
    Nothing,
}

/// A sandbox whose ports can be reached.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(crate) id: SandboxId,
    pub(crate) addr: Option<IpAddr>,
    /// Cancelled when its address changes or it leaves the table.
    pub(crate) removed: CancellationToken,
    /// Who may see its ports.
    pub(crate) gate: Gate,
}

/// An entry together with what was loaded for it.
#[derive(Debug)]
pub(crate) enum Loaded {
    /// Needs nothing.
    Plain(Entry),
    /// A static route and its manifest.
    Site(link::Route, Arc<SiteManifest>),
    /// A certificate that was read.
    Certificate(link::Certificate, Arc<Certified>),
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Live {
    settings: ArcSwapOption<Settings>,
    routes: Sharded<String, Arc<Route>>,
    apps: Sharded<DeploymentId, Arc<App>>,
    sandboxes: Sharded<SandboxId, Arc<Sandbox>>,
    brands: Sharded<Branded, Arc<Branding>>,
    certificates: Sharded<String, Arc<Certified>>,
    by_chain: Mutex<HashMap<Digest, Arc<Certified>>>,
}

impl Live {
    pub(crate) fn settings(&self) -> Option<Arc<Settings>> {
        self.settings.load_full()
    }

    pub(crate) fn route(&self, host: &str) -> Option<Arc<Route>> {
        self.routes.get(host)
    }

    /// Whose domain a name without a route lies in.
    pub(crate) fn owner_of(&self, host: &str) -> Option<Branded> {
        let (_, parent) = host.split_once('.')?;
        Some(self.routes.get(&*format!("*.{parent}"))?.owner)
    }

    pub(crate) fn app(&self, id: DeploymentId) -> Option<Arc<App>> {
        self.apps.get(&id)
    }

    pub(crate) fn sandbox(&self, id: SandboxId) -> Option<Arc<Sandbox>> {
        self.sandboxes.get(&id)
    }

    pub(crate) fn branding(&self, owner: Branded) -> Arc<Branding> {
        self.brands.get(&owner).unwrap_or_default()
    }

    /// The certificate for a name: exact, then the wildcard one label up.
    pub(crate) fn certificate(&self, name: &str) -> Option<Arc<Certified>> {
        self.certificates.get(name).or_else(|| {
            let (_, parent) = name.split_once('.')?;
            self.certificates.get(&*format!("*.{parent}"))
        })
    }

    /// Replicas that take no new requests; their counts are reported.
    pub(crate) fn draining(&self) -> Vec<Arc<Replica>> {
        let of = |app: Arc<App>| app.spec.load().replicas.clone();
        self.apps
            .values()
            .into_iter()
            .flat_map(of)
            .filter(|replica| replica.is_draining())
            .collect()
    }

    /// Makes one entry live. An app whose state changed is given back, so that its held
    /// requests can be looked at.
    pub(crate) fn insert(&self, loaded: Loaded) -> Option<Arc<App>> {
        match loaded {
            Loaded::Site(route, manifest) => {
                self.insert_route(&route.host, route.owner, Target::Static(manifest));
            }
            Loaded::Certificate(of, certified) => self.insert_certificate(of.chain, certified),
            Loaded::Plain(Entry::Settings(settings)) => {
                self.settings.store(Some(Arc::new(settings)));
            }
            Loaded::Plain(Entry::Route(route)) => {
                let target = match route.target {
                    link::Target::App { app } => Target::App(app),
                    link::Target::Preview { sandbox } => Target::Preview(sandbox),
                    link::Target::Redirect { to } => Target::Redirect(to),
                    link::Target::Nothing => Target::Nothing,
                    // Comes as `Loaded::Site`.
                    link::Target::Static { .. } => return None,
                };
                self.insert_route(&route.host, route.owner, target);
            }
            Loaded::Plain(Entry::App(of)) => return Some(self.insert_app(&of)),
            Loaded::Plain(Entry::Sandbox(of)) => self.insert_sandbox(&of),
            Loaded::Plain(Entry::Brand(brand)) => {
                self.brands.insert(brand.owner, Arc::new(brand.branding));
            }
            // Comes as `Loaded::Certificate`.
            Loaded::Plain(Entry::Certificate(_)) => {}
        }
        None
    }

    /// Takes one entry out.
    pub(crate) fn remove(&self, key: &Key) {
        match key {
            Key::Settings => self.settings.store(None),
            Key::Route(host) => {
                if let Some(old) = self.routes.remove(host) {
                    self.replaced(&old);
                }
            }
            Key::App(id) => {
                if let Some(app) = self.apps.remove(id) {
                    app.close();
                }
            }
            Key::Sandbox(id) => {
                if let Some(sandbox) = self.sandboxes.remove(id) {
                    sandbox.removed.cancel();
                }
            }
            Key::Brand(owner) => {
                self.brands.remove(owner);
            }
            Key::Certificate(chain) => self.remove_certificate(*chain),
        }
    }

    fn insert_route(&self, host: &str, owner: Branded, target: Target) {
        let host = host.to_ascii_lowercase();
        let old = self.routes.get(&*host);
        if old.as_ref().is_some_and(|old| old.is_same(owner, &target)) {
            return;
        }
        let is_replaced = AtomicBool::new(false);
        self.routes.insert(host, Arc::new(Route { owner, target, is_replaced }));
        if let Some(old) = old {
            self.replaced(&old);
        }
    }

    /// Who waits for its app is answered by what has the host now.
    fn replaced(&self, old: &Route) {
        old.is_replaced.store(true, Relaxed);
        if let Target::App(id) = &old.target
            && let Some(app) = self.apps.get(id)
        {
            app.queue.release_all();
        }
    }

    fn insert_app(&self, of: &link::App) -> Arc<App> {
        if let Some(app) = self.apps.get(&of.app) {
            app.update(of);
            return app;
        }
        let app = Arc::new(App::new(of));
        self.apps.insert(of.app, app.clone());
        app
    }

    fn insert_sandbox(&self, of: &link::Sandbox) {
        let old = self.sandboxes.get(&of.sandbox);
        let kept = old.as_ref().filter(|old| old.addr == of.addr);
        if kept.is_some_and(|old| *old.gate.access() == of.access) {
            return;
        }
        let removed = kept.map_or_else(CancellationToken::new, |old| old.removed.clone());
        let gate = Gate::new(of.access.clone(), &removed, kept.map(|old| &old.gate));
        let ended = kept.map_or_else(Vec::new, |old| old.gate.ended_by(&gate));
        let is_moved = kept.is_none();
        self.sandboxes
            .insert(of.sandbox, Arc::new(Sandbox { id: of.sandbox, addr: of.addr, removed, gate }));
        // After the new one is in: who is turned out now cannot come back by the old.
        ended.iter().for_each(CancellationToken::cancel);
        if let Some(old) = old.filter(|_| is_moved) {
            old.removed.cancel();
        }
    }

    fn insert_certificate(&self, chain: Digest, certified: Arc<Certified>) {
        let mut by_chain = self.by_chain.lock().unwrap_or_else(PoisonError::into_inner);
        for name in &certified.names {
            self.certificates.insert(name.clone(), certified.clone());
        }
        by_chain.insert(chain, certified);
    }

    /// A name that a newer certificate has taken over stays with that one; a name that an older
    /// one still covers goes back to it.
    fn remove_certificate(&self, chain: Digest) {
        let mut by_chain = self.by_chain.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(certified) = by_chain.remove(&chain) else { return };
        for name in &certified.names {
            let is_ours = self.certificates.get(name).is_some_and(|c| Arc::ptr_eq(&c, &certified));
            if !is_ours {
                continue;
            }
            match by_chain.values().find(|other| other.names.contains(name)) {
                Some(other) => self.certificates.insert(name.clone(), other.clone()),
                None => {
                    self.certificates.remove(name);
                }
            }
        }
    }
}
