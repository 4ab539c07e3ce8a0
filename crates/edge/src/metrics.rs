//! What an operator can see of an edge. No label names a host: their number has no bound.

use std::{sync::Mutex, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use tokio::{
    io::AsyncWriteExt as _,
    net::{UnixListener, UnixStream},
};

/// How long a reader of the counters may take.
const READER: Duration = Duration::from_secs(1);

/// Pause after an accept that failed: trying at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a request was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Class {
    /// The platform's API.
    Api,
    /// Files of a version.
    Static,
    /// An app with processes.
    App,
    /// A port of a sandbox.
    Preview,
    /// Another host, or HTTPS.
    Redirect,
    /// Nothing that is known.
    Unknown,
    /// Refused before it was looked at.
    Refused,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    class: Class,
    /// First digit of the status.
    status: u16,
}

/// Bytes on the sockets of visitors, TLS aside. Cheap to clone; clones count together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) received: Counter,
    pub(crate) sent: Counter,
}

/// Counters of one edge.
#[derive(Debug)]
pub(crate) struct Metrics {
    requests: Family<RequestLabels, Counter>,
    pub(crate) retries: Counter,
    pub(crate) ejections: Counter,
    pub(crate) held: Counter,
    pub(crate) hold_refused: Counter,
    pub(crate) holding: Gauge,
    pub(crate) connections: Gauge,
    pub(crate) connections_evicted: Counter,
    pub(crate) connections_refused: Counter,
    pub(crate) unknown_sni: Counter,
    pub(crate) blobs_checked: Counter,
    pub(crate) blobs_damaged: Counter,
    pub(crate) traffic: Traffic,
    registry: Mutex<Registry>,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            requests: Family::default(),
            retries: Counter::default(),
            ejections: Counter::default(),
            held: Counter::default(),
            hold_refused: Counter::default(),
            holding: Gauge::default(),
            connections: Gauge::default(),
            connections_evicted: Counter::default(),
            connections_refused: Counter::default(),
            unknown_sni: Counter::default(),
            blobs_checked: Counter::default(),
            blobs_damaged: Counter::default(),
            traffic: Traffic::default(),
            registry: Mutex::new(Registry::with_prefix("edge")),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&self) {
        let mut registry = self.lock();
        let mut counter = |name, help, counter: &Counter| {
            registry.register(name, help, counter.clone());
        };
        counter("retries", "Requests sent a second time", &self.retries);
        counter("ejections", "Replicas ejected after a connect error", &self.ejections);
        counter("held", "Requests that waited for their app", &self.held);
        counter("hold_refused", "Requests beyond a bound of the queue", &self.hold_refused);
        let evicted = "Idle client connections closed to make room";
        counter("connections_evicted", evicted, &self.connections_evicted);
        let refused = "Client connections beyond a bound";
        counter("connections_refused", refused, &self.connections_refused);
        counter("unknown_sni", "TLS handshakes for an unknown name", &self.unknown_sni);
        counter("blobs_checked", "Blobs read by the scrub", &self.blobs_checked);
        counter("blobs_damaged", "Damaged blobs that it found", &self.blobs_damaged);
        counter("received_bytes", "Bytes from visitors", &self.traffic.received);
        counter("sent_bytes", "Bytes to visitors", &self.traffic.sent);
        registry.register("requests", "Requests answered", self.requests.clone());
        registry.register("holding", "Requests that wait now", self.holding.clone());
        registry.register("connections", "Open client connections", self.connections.clone());
    }

    /// An answer was begun.
    pub(crate) fn answered(&self, class: Class, status: http::StatusCode) {
        let labels = RequestLabels { class, status: status.as_u16() / 100 };
        self.requests.get_or_create(&labels).inc();
    }

    /// All of them in the text format of Prometheus (0.0.4).
    pub(crate) fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = text::encode(&mut text, &self.lock());
        classic(&text)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// OpenMetrics as the older format that everything reads: there a counter's family has the name
/// of its samples, and nothing marks the end.
fn classic(text: &str) -> String {
    let counters: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut classic = String::with_capacity(text.len());
    for line in text.lines().filter(|line| *line != "# EOF") {
        let about = line.strip_prefix("# ").and_then(|rest| {
            let (word, rest) = rest.split_once(' ')?;
            let (name, rest) = rest.split_once(' ')?;
            counters.contains(&name).then(|| format!("# {word} {name}_total {rest}"))
        });
        classic.push_str(about.as_deref().unwrap_or(line));
        classic.push('\n');
    }
    classic
}

/// Gives everyone who connects all counters and closes. Runs until it is dropped.
pub(crate) async fn serve(metrics: &Metrics, listener: UnixListener) {
    loop {
        match listener.accept().await {
            // One after another: the only reader is control.
            Ok((reader, _)) => tell(metrics, reader).await,
            Err(error) => {
                tracing::warn!(%error, "nobody can ask for the edge's metrics");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn tell(metrics: &Metrics, mut reader: UnixStream) {
    let text = metrics.encode();
    let told = async {
        reader.write_all(text.as_bytes()).await?;
        reader.shutdown().await
    };
    if let Ok(Err(error)) = tokio::time::timeout(READER, told).await {
        tracing::debug!(%error, "a reader of the metrics is gone");
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[test]
    fn requests_are_counted_by_class_only() {
        let metrics = Metrics::default();
        metrics.answered(Class::App, http::StatusCode::OK);
        metrics.answered(Class::App, http::StatusCode::NO_CONTENT);
        let text = metrics.encode();
        assert!(text.contains(r#"edge_requests_total{class="App",status="2"} 2"#), "{text}");
    }
    #[test]
    fn a_counters_family_is_called_as_its_samples() {
        let metrics = Metrics::default();
        metrics.traffic.sent.inc_by(7);
        let text = metrics.encode();
        assert!(text.contains("# TYPE edge_sent_bytes_total counter\n"), "{text}");
        assert!(text.contains("# HELP edge_sent_bytes_total Bytes to visitors.\n"), "{text}");
        assert!(text.contains("\nedge_sent_bytes_total 7\n"), "{text}");
        assert!(text.contains("# TYPE edge_connections gauge\n"), "{text}");
        assert!(!text.contains("# EOF") && !text.contains("_total_total"), "{text}");
    }

    #[tokio::test]
    async fn whoever_connects_is_told_everything_also_after_one_who_does_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let metrics = std::sync::Arc::new(Metrics::default());
        let served = metrics.clone();
        let task = tokio::spawn(async move { serve(&served, listener).await });
        drop(UnixStream::connect(&path).await.unwrap());
        metrics.held.inc();
        let mut text = String::new();
        UnixStream::connect(&path).await.unwrap().read_to_string(&mut text).await.unwrap();
        assert!(text.contains("edge_held_total 1\n"), "{text}");
        task.abort();
    }
}
