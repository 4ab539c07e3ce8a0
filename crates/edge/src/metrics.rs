//! What an operator can see of an edge. No label names a host: their number has no bound.

use std::sync::Mutex;

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

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
    pub(crate) unknown_sni: Counter,
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
            unknown_sni: Counter::default(),
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
        counter("unknown_sni", "TLS handshakes for an unknown name", &self.unknown_sni);
        registry.register("requests", "Requests answered", self.requests.clone());
        registry.register("holding", "Requests that wait now", self.holding.clone());
        registry.register("connections", "Open client connections", self.connections.clone());
    }

    /// An answer was begun.
    pub(crate) fn answered(&self, class: Class, status: http::StatusCode) {
        let labels = RequestLabels { class, status: status.as_u16() / 100 };
        self.requests.get_or_create(&labels).inc();
    }

    /// All of them in the OpenMetrics text format.
    pub(crate) fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = text::encode(&mut text, &self.lock());
        text
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_class_only() {
        let metrics = Metrics::default();
        metrics.answered(Class::App, http::StatusCode::OK);
        metrics.answered(Class::App, http::StatusCode::NO_CONTENT);
        let text = metrics.encode();
        assert!(text.contains(r#"edge_requests_total{class="App",status="2"} 2"#), "{text}");
    }
}
