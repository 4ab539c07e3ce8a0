//! `process.Process/Start`: the request, and its stream of events as [`Output`].

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::StreamExt as _;
use http::{Method, Request, header, request};
use miosa_types::guest::{Command, Error, Output, OutputStream};
use serde_json::{Value, json};

use crate::{
    connect::{Envelope, Envelopes},
    http::{BodyStream, unavailable},
};

/// Head of the request.
pub(crate) fn request(command: &Command) -> request::Builder {
    let mut request = Request::builder()
        .method(Method::POST)
        .uri("/process.Process/Start")
        .header(header::CONTENT_TYPE, "application/connect+json")
        .header("connect-protocol-version", "1")
        // Well below the pause that we allow, so that a silent process is not taken for a dead guest.
        .header("keepalive-ping-interval", "15");
    if let Some(timeout) = command.timeout {
        request = request.header("connect-timeout-ms", timeout.as_millis().to_string());
    }
    if let Some(user) = &command.user {
        let value = format!("Basic {}", BASE64.encode(format!("{user}:")));
        request = request.header(header::AUTHORIZATION, value);
    }
    request
}

/// Its one message.
pub(crate) fn message(command: &Command) -> Result<Bytes, Error> {
    let [cmd, args @ ..] = command.argv.as_slice() else {
        return Err(Error::Invalid { reason: "no program is named".to_owned() });
    };
    let mut process = json!({ "cmd": cmd, "args": args, "envs": command.env });
    if let Some(cwd) = &command.cwd {
        process["cwd"] = cwd.as_str().into();
    }
    let message = json!({ "process": process, "stdin": command.stdin }).to_string();
    let length = u32::try_from(message.len())
        .map_err(|_| Error::Invalid { reason: "the command is too long".to_owned() })?;
    let mut envelope = BytesMut::with_capacity(5 + message.len());
    envelope.put_u8(0);
    envelope.put_u32(length);
    envelope.put_slice(message.as_bytes());
    Ok(envelope.freeze())
}

/// The events of a started process. An error before the first event is an error of the call.
pub(crate) async fn output(body: BodyStream) -> Result<OutputStream, Error> {
    let mut events = Events { body, envelopes: Envelopes::default(), ended: None, is_over: false };
    let first = events.next().await.ok_or_else(|| unavailable("the stream was empty"))??;
    let rest = futures_util::stream::unfold(events, |mut events| async move {
        let event = events.next().await?;
        Some((event, events))
    });
    Ok(futures_util::stream::once(async move { Ok(first) }).chain(rest).boxed())
}

struct Events {
    body: BodyStream,
    envelopes: Envelopes,
    /// The end of the process, told when the stream's own end is read: the connection is free then.
    ended: Option<Output>,
    is_over: bool,
}

impl Events {
    async fn next(&mut self) -> Option<Result<Output, Error>> {
        loop {
            if self.is_over {
                return self.ended.take().map(Ok);
            }
            match self.envelopes.next() {
                Err(error) => return Some(self.over(error)),
                // Connect calls it an error that the time was over; the end event said so already.
                Ok(Some(Envelope::End(error))) => {
                    if let Some(error) = error.filter(|_| self.ended.is_none()) {
                        return Some(self.over(error));
                    }
                    // Nothing follows but the end of the body.
                    let _ = self.body.next().await;
                    self.is_over = true;
                }
                Ok(Some(Envelope::Message(message))) => match output_of(&message) {
                    Some(end @ Output::Ended { .. }) => self.ended = Some(end),
                    Some(output) => return Some(Ok(output)),
                    None => {}
                },
                Ok(None) => match self.body.next().await {
                    Some(Ok(bytes)) => self.envelopes.push(&bytes),
                    Some(Err(error)) => return Some(self.over(unavailable(error))),
                    None => {
                        let cut = unavailable("the sandbox ended the stream in the middle");
                        return Some(self.over(cut));
                    }
                },
            }
        }
    }

    fn over(&mut self, error: Error) -> Result<Output, Error> {
        self.is_over = true;
        Err(error)
    }
}

/// What one message says; a keep-alive says nothing.
fn output_of(message: &Value) -> Option<Output> {
    let event = &message["event"];
    let bytes = |field: &str| {
        let text = event["data"][field].as_str()?;
        BASE64.decode(text).ok().map(Bytes::from)
    };
    if let Some(pid) = event["start"]["pid"].as_u64() {
        return Some(Output::Started { pid: pid.try_into().unwrap_or(0) });
    }
    if let Some(end) = event.get("end") {
        let code = end["exitCode"].as_i64().and_then(|code| code.try_into().ok()).unwrap_or(0);
        let timed_out = end["error"].as_str().is_some_and(|why| why.contains("time was over"));
        return Some(Output::Ended { code, timed_out });
    }
    bytes("stdout").map(Output::Stdout).or_else(|| bytes("stderr").map(Output::Stderr))
}
