//! The client's side of Connect with JSON: error answers, and the envelopes of a stream.
//!
//! Source: Connect protocol reference, "Unary-RPCs" and "Streaming-RPCs".

use bytes::{Buf as _, Bytes, BytesMut};
use http::StatusCode;
use miosa_types::guest::Error;
use serde_json::Value;

use crate::http::unavailable;

/// Longest message that a guest may send.
const MAX_MESSAGE: usize = 4 << 20;
/// Flag of the last envelope.
const END: u8 = 2;

/// The error that a unary answer or a plain route carries.
pub(crate) fn refused(status: StatusCode, body: &[u8]) -> Error {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let message = body["message"].as_str().unwrap_or("the sandbox refused").to_owned();
    let code = body["code"].as_str().unwrap_or_default();
    if status == StatusCode::INSUFFICIENT_STORAGE {
        return Error::NoSpace;
    }
    match code {
        "" => by_status(status, message),
        code => by_code(code, message),
    }
}

fn by_status(status: StatusCode, message: String) -> Error {
    match status {
        StatusCode::NOT_FOUND => not_found(&message),
        status if status.is_server_error() => unavailable(message),
        _ => Error::Invalid { reason: message },
    }
}

/// What was not found, out of the guest's sentence about it.
fn not_found(message: &str) -> Error {
    let what = message.strip_suffix(" was not found").unwrap_or(message);
    Error::NotFound { what: what.to_owned() }
}

fn by_code(code: &str, message: String) -> Error {
    match code {
        "not_found" => not_found(&message),
        "resource_exhausted" if message.contains("space") => Error::NoSpace,
        // The protocol gives an unknown user the code of a wrong token.
        "unauthenticated" if message.contains("user ") => Error::Invalid { reason: message },
        "internal" | "unavailable" | "unauthenticated" | "deadline_exceeded" => {
            unavailable(message)
        }
        _ => Error::Invalid { reason: message },
    }
}

/// Cuts a byte stream into messages.
#[derive(Debug, Default)]
pub(crate) struct Envelopes(BytesMut);

/// One envelope.
#[derive(Debug)]
pub(crate) enum Envelope {
    /// A message.
    Message(Value),
    /// The end, with the error if there was one.
    End(Option<Error>),
}

impl Envelopes {
    /// Takes in what arrived.
    pub(crate) fn push(&mut self, bytes: &Bytes) {
        self.0.extend_from_slice(bytes);
    }

    /// The next whole envelope, if there is one.
    pub(crate) fn next(&mut self) -> Result<Option<Envelope>, Error> {
        let Some([flag, a, b, c, d]) = self.0.first_chunk::<5>().copied() else { return Ok(None) };
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length > MAX_MESSAGE {
            return Err(unavailable("the sandbox sent a message that is too long"));
        }
        if self.0.len() < 5 + length {
            return Ok(None);
        }
        self.0.advance(5);
        let message = self.0.split_to(length);
        let value: Value = serde_json::from_slice(&message).map_err(unavailable)?;
        if flag != END {
            return Ok(Some(Envelope::Message(value)));
        }
        let error = value.get("error").map(|error| {
            let text = |field: &str| error[field].as_str().unwrap_or_default().to_owned();
            by_code(&text("code"), text("message"))
        });
        Ok(Some(Envelope::End(error)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn envelopes_are_cut_wherever_the_bytes_are() {
        let mut wire = vec![0, 0, 0, 0, 7];
        wire.extend_from_slice(br#"{"a":1}"#);
        let end = br#"{"error":{"code":"not_found","message":"no such user"}}"#;
        wire.extend_from_slice(&[2, 0, 0, 0, u8::try_from(end.len()).unwrap()]);
        wire.extend_from_slice(end);
        let (mut envelopes, mut seen) = (Envelopes::default(), Vec::new());
        for byte in wire {
            envelopes.push(&Bytes::from(vec![byte]));
            seen.extend(envelopes.next().unwrap());
        }
        assert!(matches!(&seen[0], Envelope::Message(value) if value["a"] == 1));
        assert!(
            matches!(&seen[1], Envelope::End(Some(Error::NotFound { what })) if what == "no such user")
        );
        envelopes.push(&Bytes::from_static(&[0, 255, 255, 255, 255]));
        assert!(envelopes.next().is_err());
    }

    #[test]
    fn errors_keep_what_the_caller_needs() {
        let of = |status: u16, body: &str| {
            refused(StatusCode::from_u16(status).unwrap(), body.as_bytes())
        };
        let connect = r#"{"code":"not_found","message":"/x was not found"}"#;
        assert_eq!(of(404, connect).to_string(), "/x was not found");
        let plain = r#"{"code":404,"message":"/x was not found"}"#;
        assert_eq!(of(404, plain).to_string(), "/x was not found");
        assert!(matches!(of(507, r#"{"code":507,"message":"full"}"#), Error::NoSpace));
        assert!(matches!(of(400, r#"{"code":400,"message":"a folder"}"#), Error::Invalid { .. }));
        assert!(matches!(of(500, "oops"), Error::Unavailable { .. }));
        assert!(matches!(of(401, r#"{"code":"unauthenticated"}"#), Error::Unavailable { .. }));
        let user = r#"{"code":"unauthenticated","message":"user 'x' does not exist"}"#;
        assert!(matches!(of(401, user), Error::Invalid { .. }));
    }
}
