//! TLS: which certificate answers, and what is refused before any work is done.
//!
//! Everything is decided from memory: an exact name, then the wildcard one label up, else the
//! alert `unrecognized_name` (112) on the raw socket. No lookup, no file, no default certificate
//! of somebody else. A client that sends no name (it connects by address) can only want the API:
//! it gets the certificate of the base domain, and such a connection serves API hosts alone.

use std::{io, sync::Arc, time::Duration};

use miosa_types::link;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{Acceptor, ProducesTickets},
};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

use crate::table::Live;

/// Fatal alert 112, `unrecognized_name` (RFC 6066 §3), as a TLS record.
const UNRECOGNIZED_NAME: [u8; 7] = [0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x70];

/// A certificate that is ready for handshakes.
#[derive(Debug)]
pub(crate) struct Certified {
    pub(crate) names: Vec<String>,
    config: Arc<ServerConfig>,
}

impl Certified {
    /// Whether a request for `host` may come over a connection with this certificate.
    pub(crate) fn covers(&self, host: &str) -> bool {
        let parent = host.split_once('.').map(|(_, parent)| parent);
        self.names.iter().any(|name| {
            name == host || name.strip_prefix("*.").is_some_and(|rest| Some(rest) == parent)
        })
    }
}

/// What all certificates share.
#[derive(Debug)]
pub(crate) struct Tls {
    tickets: Arc<dyn ProducesTickets>,
}

impl Tls {
    pub(crate) fn new() -> Result<Self, rustls::Error> {
        Ok(Self { tickets: rustls::crypto::aws_lc_rs::Ticketer::new()? })
    }

    /// Reads a chain and its key, both PEM.
    pub(crate) fn certified(
        &self,
        of: &link::Certificate,
        chain: &[u8],
        key: &[u8],
    ) -> Result<Certified, String> {
        let chain = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| format!("the chain cannot be read: {error}"))?;
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|error| format!("the key cannot be read: {error}"))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
            .map_err(|error| format!("chain and key cannot be used: {error}"))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.ticketer = self.tickets.clone();
        config.send_tls13_tickets = 1;
        // Never 0-RTT: it lets anybody repeat a POST.
        config.max_early_data_size = 0;
        let names = of.names.iter().map(|name| name.to_ascii_lowercase()).collect();
        Ok(Certified { names, config: Arc::new(config) })
    }
}

/// A connection whose handshake is done.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) stream: TlsStream<TcpStream>,
    pub(crate) certificate: Arc<Certified>,
    /// Whether the client named a host; without one, only the API answers.
    pub(crate) has_name: bool,
    pub(crate) is_h2: bool,
}

/// Why a handshake did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    /// No certificate for that name.
    #[error("unknown name")]
    UnknownName,
    /// The client went away, spoke something else, or was too slow.
    #[error("the handshake failed")]
    Failed(#[source] io::Error),
}

/// Does the handshake within `limit`.
pub(crate) async fn accept(
    live: &Live,
    stream: TcpStream,
    limit: Duration,
) -> Result<Accepted, HandshakeError> {
    let deadline = Instant::now() + limit;
    let too_slow = |_| HandshakeError::Failed(io::ErrorKind::TimedOut.into());
    let acceptor = LazyConfigAcceptor::new(Acceptor::default(), stream);
    let start =
        timeout_at(deadline, acceptor).await.map_err(too_slow)?.map_err(HandshakeError::Failed)?;
    let name = start.client_hello().server_name().map(str::to_ascii_lowercase);
    let certificate = match &name {
        Some(name) => live.certificate(name),
        None => live.settings().and_then(|settings| live.certificate(&settings.domains.base)),
    };
    let Some(certificate) = certificate else {
        refuse(start.io, deadline).await;
        return Err(HandshakeError::UnknownName);
    };
    let stream = timeout_at(deadline, start.into_stream(certificate.config.clone()))
        .await
        .map_err(too_slow)?
        .map_err(HandshakeError::Failed)?;
    let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    Ok(Accepted { stream, certificate, has_name: name.is_some(), is_h2 })
}

/// Best effort: the client learns why, and nothing else happens.
async fn refuse(mut stream: TcpStream, deadline: Instant) {
    let alert = async {
        stream.write_all(&UNRECOGNIZED_NAME).await?;
        stream.shutdown().await
    };
    let _ = timeout_at(deadline, alert).await;
}

#[cfg(test)]
mod tests {
    use miosa_types::Digest;

    use super::*;

    #[test]
    fn a_certificate_covers_its_names_and_one_label_below_a_wildcard() {
        let key = rcgen::generate_simple_self_signed(vec!["a.b".into(), "*.c.d".into()]).unwrap();
        let of = link::Certificate {
            names: vec!["a.b".into(), "*.C.d".into()],
            chain: Digest::of(b"1"),
            key: Digest::of(b"2"),
            not_after: "2030-01-01T00:00:00Z".parse().unwrap(),
        };
        let tls = Tls::new().unwrap();
        let chain = key.cert.pem();
        let pem = key.signing_key.serialize_pem();
        let certified = tls.certified(&of, chain.as_bytes(), pem.as_bytes()).unwrap();
        let cases =
            [("a.b", true), ("x.a.b", false), ("x.c.d", true), ("y.x.c.d", false), ("c.d", false)];
        for (host, covered) in cases {
            assert_eq!(certified.covers(host), covered, "{host}");
        }
        assert!(tls.certified(&of, b"", pem.as_bytes()).is_err(), "an empty chain");
        assert!(tls.certified(&of, chain.as_bytes(), b"junk").is_err(), "no key");
    }
}
