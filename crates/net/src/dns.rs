//! `Dns` by a stub resolver: the host's own resolvers, or one that the operator names.
//!
//! Promises: nothing is remembered between calls, so that a record that was just made is seen as
//! soon as the resolver sees it; a bounded number of lookups is under way, and waiting for room
//! counts against the caller's time.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use async_trait::async_trait;
use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig},
    net::runtime::TokioRuntimeProvider,
    proto::rr::{Name, RData, RecordType},
};
use miosa_types::dns::{Dns, Failed};
use tokio::sync::Semaphore;

/// Lookups under way for all callers.
const IN_FLIGHT: usize = 16;
/// How long one try at one server may take.
const TRY: Duration = Duration::from_secs(2);
/// Tries at each server.
const TRIES: usize = 2;

/// See the module.
#[derive(Debug)]
pub struct Resolver {
    /// Why there is none, otherwise.
    inner: Result<TokioResolver, String>,
    room: Semaphore,
}

impl Resolver {
    /// Asks `server`, or the host's resolvers (resolv.conf(5)) if there is none. A host without
    /// resolvers makes lookups fail, not this.
    pub fn new(server: Option<SocketAddr>) -> Self {
        let inner = build(server).map_err(|error| format!("no resolver can be used: {error}"));
        if let Err(why) = &inner {
            tracing::warn!(why, "names cannot be looked up");
        }
        Self { inner, room: Semaphore::new(IN_FLIGHT) }
    }

    /// The records of one type; none is an answer.
    async fn ask(
        &self,
        name: &str,
        kind: RecordType,
        timeout: Duration,
    ) -> Result<Vec<RData>, Failed> {
        let resolver = self.inner.as_ref().map_err(|why| Failed { why: why.clone() })?;
        // A final dot: the host's search list has no say here.
        let name = Name::from_ascii(format!("{name}."))
            .map_err(|_| Failed { why: format!("`{name}` cannot be asked for") })?;
        let work = async {
            let _room = self.room.acquire().await;
            resolver.lookup(name.clone(), kind).await
        };
        match tokio::time::timeout(timeout, work).await {
            Err(_) => Err(Failed { why: format!("no answer about {name} ({kind}) in time") }),
            Ok(Ok(found)) => Ok(found.answers().iter().map(|one| one.data.clone()).collect()),
            Ok(Err(error)) if error.is_no_records_found() => Ok(vec![]),
            Ok(Err(error)) => {
                tracing::debug!(%name, %kind, %error, "a lookup failed");
                Err(Failed { why: format!("the lookup of {name} ({kind}) failed") })
            }
        }
    }
}

fn build(server: Option<SocketAddr>) -> Result<TokioResolver, hickory_resolver::net::NetError> {
    let mut builder = match server {
        None => TokioResolver::builder_tokio()?,
        Some(server) => {
            let at = |mut connection: ConnectionConfig| {
                connection.port = server.port();
                connection
            };
            let connections = vec![at(ConnectionConfig::udp()), at(ConnectionConfig::tcp())];
            let server = NameServerConfig::new(server.ip(), true, connections);
            let config = ResolverConfig::from_name_servers(vec![server]);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        }
    };
    let options = builder.options_mut();
    options.timeout = TRY;
    options.attempts = TRIES;
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    builder.build()
}

#[async_trait]
impl Dns for Resolver {
    async fn texts(&self, name: &str, timeout: Duration) -> Result<Vec<String>, Failed> {
        let found = self.ask(name, RecordType::TXT, timeout).await?;
        // A long text comes in pieces (RFC 1035 §3.3.14).
        let text = |data: RData| match data {
            RData::TXT(txt) => Some(String::from_utf8_lossy(&txt.txt_data.concat()).into_owned()),
            _ => None,
        };
        Ok(found.into_iter().filter_map(text).collect())
    }

    async fn alias(&self, name: &str, timeout: Duration) -> Result<Option<String>, Failed> {
        let found = self.ask(name, RecordType::CNAME, timeout).await?;
        Ok(found.into_iter().find_map(|data| match data {
            RData::CNAME(to) => Some(to.0.to_ascii().trim_end_matches('.').to_ascii_lowercase()),
            _ => None,
        }))
    }

    async fn addresses(&self, name: &str, timeout: Duration) -> Result<Vec<IpAddr>, Failed> {
        let (four, six) = tokio::join!(
            self.ask(name, RecordType::A, timeout),
            self.ask(name, RecordType::AAAA, timeout)
        );
        let address = |data: RData| match data {
            RData::A(four) => Some(IpAddr::V4(four.0)),
            RData::AAAA(six) => Some(IpAddr::V6(six.0)),
            _ => None,
        };
        match (four, six) {
            (Err(failed), _) | (_, Err(failed)) => Err(failed),
            (Ok(four), Ok(six)) => Ok(four.into_iter().chain(six).filter_map(address).collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UdpSocket;

    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    /// A code, and the type and data of each record; `None`: silence.
    type Said = Option<(u8, Vec<(u16, Vec<u8>)>)>;

    /// Answers every question as `answer` says of its name and type.
    async fn server(answer: fn(&str, u16) -> Said) -> Resolver {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let resolver = Resolver::new(Some(socket.local_addr().unwrap()));
        tokio::spawn(async move {
            let mut query = [0; 1024];
            while let Ok((length, client)) = socket.recv_from(&mut query).await {
                let (name, end) = question(&query[..length]);
                let kind = u16::from_be_bytes([query[end], query[end + 1]]);
                let Some((code, records)) = answer(&name, kind) else { continue };
                let count = u8::try_from(records.len()).unwrap();
                let mut out = query[..2].to_vec();
                out.extend([0x81, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0]);
                out.extend(&query[12..end + 4]);
                for (kind, data) in records {
                    // A pointer to the question's name, class IN, 60 s.
                    out.extend([0xc0, 12]);
                    out.extend(kind.to_be_bytes());
                    out.extend([0, 1, 0, 0, 0, 60]);
                    out.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
                    out.extend(data);
                }
                socket.send_to(&out, client).await.unwrap();
            }
        });
        resolver
    }

    /// Name of a question, and where it ends.
    fn question(query: &[u8]) -> (String, usize) {
        let (mut labels, mut at) = (vec![], 12);
        while query[at] > 0 {
            let end = at + 1 + usize::from(query[at]);
            labels.push(String::from_utf8_lossy(&query[at + 1..end]).to_lowercase());
            at = end;
        }
        (labels.join("."), at + 1)
    }

    #[tokio::test]
    async fn records_are_read_and_none_is_an_answer() {
        let resolver = server(|name, kind| match (name, kind) {
            ("_proof.a.test", 16) => Some((0, vec![(16, b"\x02ab\x01c".to_vec())])),
            ("www.a.test", 5) => Some((0, vec![(5, b"\x04Shop\x01b\x04test\0".to_vec())])),
            ("a.test", 1) => Some((0, vec![(1, vec![192, 0, 2, 7])])),
            ("a.test", _) => Some((0, vec![])),
            _ => Some((3, vec![])),
        })
        .await;
        assert_eq!(resolver.texts("_proof.a.test", SOON).await.unwrap(), ["abc"]);
        assert_eq!(resolver.alias("www.a.test", SOON).await.unwrap().unwrap(), "shop.b.test");
        let address: IpAddr = [192, 0, 2, 7].into();
        assert_eq!(resolver.addresses("a.test", SOON).await.unwrap(), [address]);
        assert_eq!(resolver.texts("a.test", SOON).await.unwrap(), [""; 0], "no such record");
        assert_eq!(resolver.alias("nobody.test", SOON).await.unwrap(), None, "no such name");
        assert_eq!(resolver.addresses("nobody.test", SOON).await.unwrap(), [] as [IpAddr; 0]);
    }

    #[tokio::test]
    async fn silence_and_failure_are_no_answer() {
        let resolver = server(|name, _| (name == "broken.test").then(|| (2, vec![]))).await;
        let broken = resolver.texts("broken.test", SOON).await.unwrap_err();
        assert_eq!(broken.why, "the lookup of broken.test. (TXT) failed");
        let short = Duration::from_millis(200);
        let silent = resolver.alias("silent.test", short).await.unwrap_err();
        assert_eq!(silent.why, "no answer about silent.test. (CNAME) in time");
    }
}
