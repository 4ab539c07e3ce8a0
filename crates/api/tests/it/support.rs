//! A platform in memory: real database, fake provider, a guest that is never there.

use std::{net::IpAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use axum::{Router, body::Body};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use miosa_api::{AppState, Build, auth};
use miosa_artifact::ArtifactStore;
use miosa_control::{
    Control, Observations, Wakes,
    driver::Steps,
    edges::Edges,
    monitor::Suspects,
    sandboxes::InHand,
    templates::{Fixed, Template},
};
use miosa_provider::fake::Fake;
use miosa_store::{Store, api_keys, tenants};
use miosa_types::{
    Digest, Env, Slug,
    dns::{Dns, Failed},
    env::ManualClock,
    guest::{
        ByteStream, Command, Endpoint, Error, FileInfo, Guest, Init, ListeningPort, OutputStream,
    },
    host::Domains,
    probe::{Outcome, Probe, Target},
};
use serde_json::Value;
use tower::ServiceExt as _;

/// See the module.
pub(crate) struct Platform {
    pub router: Router,
    pub state: AppState,
    pub clock: Arc<ManualClock>,
    pub operator: String,
    _dir: tempfile::TempDir,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Value,
    pub text: String,
}

/// A tenant and its key.
pub(crate) struct Tenant {
    pub key: String,
    pub json: Value,
}

impl Platform {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = ManualClock::new("2026-06-01T12:00:00Z".parse().unwrap());
        let env = Env::fixed(clock.clone(), 7);
        let store = Store::open_sqlite(&dir.path().join("db.sqlite")).await.unwrap();
        let domains = Domains {
            base: "miosa.localhost".into(),
            apps: "apps.localhost".into(),
            https_port: 8443,
        };
        let operator = first_tenant(&store, &env, &domains).await;
        let control = Control {
            store,
            provider: Arc::new(Fake::new(env.clone())),
            guest: Arc::new(Nobody),
            probe: Arc::new(Nobody),
            dns: Arc::new(Nobody),
            edges: Edges::new(1),
            suspects: Suspects::default(),
            healing: miosa_control::healing::Healing::default(),
            templates: Arc::new(Fixed(vec![template()])),
            in_hand: InHand::default(),
            pool: miosa_control::pool::Stats::default(),
            artifacts: ArtifactStore::open(&dir.path().join("artifacts")).unwrap(),
            env,
            config: miosa_control::Config {
                domains,
                addresses: vec![[192, 0, 2, 7].into()],
                data_dir: dir.path().to_owned(),
                pool: vec![],
                default_template: "miosa-sandbox".into(),
                plain_http: false,
            },
            observed: Observations::default(),
            wakes: Wakes::default(),
        };
        let build = Build { version: "1.2.3", commit: "abcdef" };
        let state = AppState::new(Arc::new(control), Steps::default(), build);
        let router = miosa_api::router(state.clone());
        Self { router, state, clock, operator, _dir: dir }
    }

    pub(crate) async fn tenant(&self, name: &str) -> Tenant {
        let body = serde_json::json!({ "name": name });
        let answer = self.call(Method::POST, "/api/v1/admin/tenants", &self.operator, body).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
        Tenant {
            key: answer.body["data"]["api_key"].as_str().unwrap().to_owned(),
            json: answer.body["data"]["tenant"].clone(),
        }
    }

    /// A call with a key (empty: none) and a JSON body (null: none).
    pub(crate) async fn call(&self, method: Method, path: &str, key: &str, body: Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.send(request(method, path, key).body(body.into()).unwrap()).await
    }

    pub(crate) async fn get(&self, path: &str, key: &str) -> Answer {
        self.call(Method::GET, path, key, Value::Null).await
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let is_endless =
            headers.get("content-type").is_some_and(|kind| kind == "text/event-stream");
        let mut body = response.into_body();
        let mut bytes = vec![];
        loop {
            let frame = body.frame();
            // What a stream has to say at once; then it waits for events that never come here.
            let frame = if is_endless {
                tokio::time::timeout(STREAM, frame).await.ok().flatten()
            } else {
                frame.await
            };
            let Some(frame) = frame else { break };
            bytes.extend(frame.unwrap().into_data().unwrap_or_default());
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Answer { status, headers, body: serde_json::from_str(&text).unwrap_or_default(), text }
    }
}

/// How long a stream of events may be silent before it is left.
const STREAM: Duration = Duration::from_millis(250);

pub(crate) fn request(method: Method, path: &str, key: &str) -> http::request::Builder {
    let builder = Request::builder().method(method).uri(path);
    if key.is_empty() { builder } else { builder.header("authorization", format!("Bearer {key}")) }
}

async fn first_tenant(store: &Store, env: &Env, domains: &Domains) -> String {
    let tenant = tenants::Tenant {
        id: env.id(),
        name: "Default".into(),
        slug: Slug::parse("default").unwrap(),
        deployment_domain: domains.default_deployment_domain("default"),
        preview_domain: None,
        console_domain: None,
        branding: None,
        settings: serde_json::Map::new(),
        generation: 1,
        created_at: env.now(),
        updated_at: env.now(),
    };
    let key = auth::new_key(env, tenant.id, "operator", true);
    let mut tx = store.begin().await.unwrap();
    tenants::insert(&mut tx, &tenant).await.unwrap();
    api_keys::insert(&mut tx, &key.row).await.unwrap();
    tx.commit().await.unwrap();
    key.key.expose().to_owned()
}

fn template() -> Template {
    Template {
        name: "miosa-sandbox".into(),
        aliases: vec![],
        digest: Digest::of(b"template"),
        description: String::new(),
        workdir: "/workspace".into(),
        preview_port: None,
        install_command: None,
        start_command: None,
        runtimes: vec![],
    }
}

/// A guest, an app and a resolver that never answer.
#[derive(Debug)]
struct Nobody;

fn away<T>() -> Result<T, Error> {
    Err(Error::Unavailable { source: "nobody is there".into() })
}

#[async_trait]
impl Probe for Nobody {
    async fn probe(&self, _: &Target) -> Outcome {
        Outcome::Refused
    }
}

#[async_trait]
impl Dns for Nobody {
    async fn texts(&self, _: &str, _: Duration) -> Result<Vec<String>, Failed> {
        Err(Failed { why: "nobody is there".into() })
    }
    async fn alias(&self, _: &str, _: Duration) -> Result<Option<String>, Failed> {
        Err(Failed { why: "nobody is there".into() })
    }
    async fn addresses(&self, _: &str, _: Duration) -> Result<Vec<IpAddr>, Failed> {
        Err(Failed { why: "nobody is there".into() })
    }
}

#[async_trait]
impl Guest for Nobody {
    async fn health(&self, _: &Endpoint, _: Duration) -> Result<(), Error> {
        away()
    }
    async fn init(&self, _: &Endpoint, _: &Init) -> Result<(), Error> {
        away()
    }
    async fn start(&self, _: &Endpoint, _: &Command) -> Result<OutputStream, Error> {
        away()
    }
    async fn send_stdin(&self, _: &Endpoint, _: u32, _: Bytes) -> Result<(), Error> {
        away()
    }
    async fn close_stdin(&self, _: &Endpoint, _: u32) -> Result<(), Error> {
        away()
    }
    async fn signal(&self, _: &Endpoint, _: u32, _: i32) -> Result<(), Error> {
        away()
    }
    async fn read(&self, _: &Endpoint, _: &str) -> Result<ByteStream, Error> {
        away()
    }
    async fn write(&self, _: &Endpoint, _: &str, _: ByteStream) -> Result<(), Error> {
        away()
    }
    async fn list(&self, _: &Endpoint, _: &str, _: u32) -> Result<Vec<FileInfo>, Error> {
        away()
    }
    async fn stat(&self, _: &Endpoint, _: &str) -> Result<FileInfo, Error> {
        away()
    }
    async fn remove(&self, _: &Endpoint, _: &str) -> Result<(), Error> {
        away()
    }
    async fn make_dir(&self, _: &Endpoint, _: &str) -> Result<(), Error> {
        away()
    }
    async fn rename(&self, _: &Endpoint, _: &str, _: &str) -> Result<(), Error> {
        away()
    }
    async fn read_tar(&self, _: &Endpoint, _: &str, _: &[String]) -> Result<ByteStream, Error> {
        away()
    }
    async fn write_tar(&self, _: &Endpoint, _: &str, _: ByteStream) -> Result<(), Error> {
        away()
    }
    async fn ports(&self, _: &Endpoint) -> Result<Vec<ListeningPort>, Error> {
        away()
    }
    async fn logs(&self, _: &Endpoint, _: u32) -> Result<Bytes, Error> {
        away()
    }
}
