//! `Probe` over HTTP/1.1: one connection for each probe, so that a hung one cannot spoil the next.

use std::io;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use miosa_types::probe::{Outcome, Probe, Target};
use tokio::net::TcpStream;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct HttpProbe;

impl HttpProbe {
    /// A probe.
    pub const fn new() -> Self {
        Self
    }
}

#[async_trait]
impl Probe for HttpProbe {
    async fn probe(&self, target: &Target) -> Outcome {
        match tokio::time::timeout(target.timeout, ask(target)).await {
            Err(_) => Outcome::TimedOut,
            Ok(outcome) => outcome,
        }
    }
}

async fn ask(target: &Target) -> Outcome {
    let stream = match TcpStream::connect(target.addr).await {
        Ok(stream) => stream,
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Outcome::Refused,
        Err(_) => return Outcome::Broken,
    };
    let Ok((mut sender, connection)) = http1::handshake(TokioIo::new(stream)).await else {
        return Outcome::Broken;
    };
    let request = Request::get(target.path.as_str())
        .header(header::HOST, target.host.as_str())
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new());
    let Ok(request) = request else { return Outcome::Broken };
    // The connection is driven here, and closed as soon as the head of the answer is there. It may
    // end in the same moment in which it delivers the answer, so its end decides nothing.
    let answer = sender.send_request(request);
    tokio::pin!(answer, connection);
    let answer = tokio::select! {
        biased;
        answer = &mut answer => answer,
        _ = &mut connection => answer.await,
    };
    answer.map_or(Outcome::Broken, |response| Outcome::Answered(response.status().as_u16()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{io::AsyncReadExt as _, io::AsyncWriteExt as _, net::TcpListener};

    use super::*;

    async fn probe(answer: Option<&'static str>) -> Outcome {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Target {
            addr: listener.local_addr().unwrap(),
            host: "app.test".into(),
            path: "/up".into(),
            timeout: Duration::from_millis(300),
        };
        let served = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 1024];
            assert!(stream.read(&mut head).await.unwrap() > 0);
            if let Some(answer) = answer {
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
            // Held open until the probe is done.
            let _ = stream.read(&mut head).await;
        });
        let outcome = HttpProbe::new().probe(&target).await;
        served.abort();
        outcome
    }

    #[tokio::test]
    async fn each_kind_of_answer_is_told_apart() {
        let ok = "HTTP/1.1 204 No Content\r\n\r\n";
        assert_eq!(probe(Some(ok)).await, Outcome::Answered(204));
        assert_eq!(
            probe(Some("HTTP/1.1 500 No\r\ncontent-length: 9\r\n\r\n")).await,
            Outcome::Answered(500)
        );
        assert_eq!(probe(Some("SSH-2.0-x\r\n\r\n")).await, Outcome::Broken);
        assert_eq!(probe(None).await, Outcome::TimedOut);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        drop(listener);
        let target =
            Target { addr, host: "x".into(), path: "/".into(), timeout: Duration::from_secs(1) };
        assert_eq!(HttpProbe::new().probe(&target).await, Outcome::Refused);
    }
}
