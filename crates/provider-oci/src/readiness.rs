//! Asks a replica until it is ready, and tells a guest to end.
//!
//! Promises: every attempt has a deadline; the pause between attempts grows from 2 to 50 ms, so
//! that a fast start is seen fast and a slow one costs little. How long to go on asking is the
//! caller's to decide: it drops the future.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use miosa_provider::Readiness;
use miosa_types::guest::{self, Endpoint};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{sleep, timeout},
};

const ATTEMPT: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// The address under which a replica will be reached.
pub(crate) fn address(readiness: &Readiness, ip: IpAddr) -> SocketAddr {
    let port = match readiness {
        Readiness::Guest => guest::PORT,
        Readiness::Tcp { port } | Readiness::Http { port, .. } => *port,
    };
    SocketAddr::new(ip, port)
}

/// Returns when the replica is ready: the guest answers, and then what `readiness` names.
pub(crate) async fn wait(readiness: &Readiness, ip: IpAddr) {
    let guest = SocketAddr::new(ip, guest::PORT);
    until(|| async move { get(guest, "/health").await.is_ok_and(|status| status == 204) }).await;
    let addr = address(readiness, ip);
    match readiness {
        Readiness::Guest => {}
        Readiness::Tcp { .. } => {
            until(|| async move { TcpStream::connect(addr).await.is_ok() }).await;
        }
        Readiness::Http { path, .. } => {
            let is_ready = |status: u16| (200..400).contains(&status);
            until(|| async move { get(addr, path).await.is_ok_and(is_ready) }).await;
        }
    }
}

async fn until<F: Future<Output = bool>>(mut attempt: impl FnMut() -> F) {
    let mut pause = FIRST_PAUSE;
    while !timeout(ATTEMPT, attempt()).await.unwrap_or(false) {
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Status of a GET.
async fn get(addr: SocketAddr, path: &str) -> io::Result<u16> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    send(addr, &request).await
}

/// Tells a guest to end everything: SIGTERM, and SIGKILL after `grace`. Returns once it has
/// accepted.
pub(crate) async fn shut_down(guest: &Endpoint, grace: Duration) -> io::Result<()> {
    let body = format!("{{\"grace_ms\":{}}}", grace.as_millis());
    let request = format!(
        "POST /shutdown HTTP/1.1\r\nHost: {}\r\nX-Access-Token: {}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        guest.addr,
        guest.token.expose(),
        body.len()
    );
    let status = timeout(ATTEMPT, send(guest.addr, &request)).await??;
    if (200..300).contains(&status) {
        Ok(())
    } else {
        Err(io::Error::other(format!("the guest answered {status}")))
    }
}

/// Sends a request and reads the status line (RFC 9112 §4), nothing more.
async fn send(addr: SocketAddr, request: &str) -> io::Result<u16> {
    let mut stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    stream.write_all(request.as_bytes()).await?;
    let mut head = [0; 12];
    stream.read_exact(&mut head).await?;
    parse_status(&head).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn parse_status(head: &[u8; 12]) -> Option<u16> {
    let text = std::str::from_utf8(head).ok()?;
    let (version, status) = text.split_once(' ')?;
    if version.starts_with("HTTP/1.") { status.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn a_status_line_is_read() {
        assert_eq!(parse_status(b"HTTP/1.1 204"), Some(204));
        assert_eq!(parse_status(b"HTTP/1.0 503"), Some(503));
        assert_eq!(parse_status(b"SSH-2.0-Open"), None);
    }

    #[tokio::test]
    async fn an_app_is_ready_when_it_answers_well() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            for answer in ["HTTP/1.1 503 x\r\n\r\n", "HTTP/1.1 302 x\r\n\r\n"] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 3];
                stream.read_exact(&mut request).await.unwrap();
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        until(|| async move { get(addr, "/").await.is_ok_and(|s| (200..400).contains(&s)) }).await;
        server.await.unwrap();
        assert!(get(addr, "/").await.is_err(), "both answers were needed");
    }
}
