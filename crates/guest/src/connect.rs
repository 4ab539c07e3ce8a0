//! The Connect protocol with JSON, as far as the envd protocol uses it.
//!
//! Unary: one JSON body each way. Streams: envelopes of one flag byte, four bytes of length
//! (big-endian) and JSON; the last one has flag 2 and carries the error, if any, under status 200.
//! Source: Connect protocol reference, "Unary-RPCs" and "Streaming-RPCs".

use bytes::{Buf, BufMut, Bytes, BytesMut};
use hyper::body::Incoming;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;

use crate::{
    body,
    error::{Code, Error},
};

/// Larger messages are refused.
pub(crate) const MAX_MESSAGE: usize = 4 << 20;
/// Flag of the last envelope of a stream.
const END: u8 = 2;

/// One message of a stream.
pub(crate) fn envelope(message: &impl Serialize) -> Bytes {
    framed(0, message)
}

/// The end of a stream.
pub(crate) fn end(error: Option<&Error>) -> Bytes {
    match error {
        None => framed(END, &json!({})),
        Some(error) => framed(END, &json!({ "error": error_json(error) })),
    }
}

/// An error as unary calls answer it.
pub(crate) fn error_json(error: &Error) -> serde_json::Value {
    json!({ "code": error.code.name(), "message": error.message })
}

fn framed(flag: u8, message: &impl Serialize) -> Bytes {
    let mut buffer = BytesMut::with_capacity(256);
    buffer.put_u8(flag);
    buffer.put_u32(0);
    let mut writer = buffer.writer();
    serde_json::to_writer(&mut writer, message).expect("our messages have text keys only");
    let mut buffer = writer.into_inner();
    let length = u32::try_from(buffer.len() - 5).expect("messages are a few KiB");
    buffer[1..5].copy_from_slice(&length.to_be_bytes());
    buffer.freeze()
}

/// A message from JSON; an empty body is `{}`.
pub(crate) fn parse<T: DeserializeOwned>(json: &[u8]) -> Result<T, Error> {
    let json = if json.is_empty() { b"{}" } else { json };
    serde_json::from_slice(json).map_err(|e| Error::invalid(format!("the message is wrong: {e}")))
}

/// The messages of a request stream.
#[derive(Debug)]
pub(crate) struct Messages {
    body: Incoming,
    buffer: BytesMut,
}

impl Messages {
    /// Reads `body`.
    pub(crate) fn new(body: Incoming) -> Self {
        Self { body, buffer: BytesMut::new() }
    }

    /// The next message; `None` at the end of the stream.
    pub(crate) async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Error> {
        loop {
            match take(&mut self.buffer)? {
                Some((END, _)) => return Ok(None),
                Some((0, message)) => return parse(&message).map(Some),
                Some(_) => return Err(Error::new(Code::Unimplemented, "compressed messages")),
                None => {}
            }
            match body::next(&mut self.body).await? {
                Some(piece) => self.buffer.extend_from_slice(&piece),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(Error::invalid("the stream ends within a message")),
            }
        }
    }
}

/// Takes one whole envelope off the front.
fn take(buffer: &mut BytesMut) -> Result<Option<(u8, Bytes)>, Error> {
    let Some(header) = buffer.first_chunk::<5>() else { return Ok(None) };
    let [flag, a, b, c, d] = *header;
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if length > MAX_MESSAGE {
        return Err(Error::new(Code::ResourceExhausted, "the message is too large"));
    }
    if buffer.len() < 5 + length {
        return Ok(None);
    }
    buffer.advance(5);
    Ok(Some((flag, buffer.split_to(length).freeze())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn envelopes_come_back_however_they_are_cut() {
        let mut wire = BytesMut::new();
        wire.extend_from_slice(&envelope(&json!({"a": 1})));
        wire.extend_from_slice(&end(Some(&Error::invalid("no"))));
        let mut buffer = BytesMut::new();
        let mut seen = Vec::new();
        for byte in wire {
            buffer.put_u8(byte);
            seen.extend(take(&mut buffer).unwrap());
        }
        assert_eq!(seen[0], (0, Bytes::from_static(br#"{"a":1}"#)));
        assert_eq!(seen[1].0, END);
        let end: serde_json::Value = serde_json::from_slice(&seen[1].1).unwrap();
        assert_eq!(end["error"]["code"], "invalid_argument");
        assert!(buffer.is_empty());
    }

    #[test]
    fn a_huge_length_is_refused_before_it_is_buffered() {
        let mut buffer = BytesMut::from(&[0, 255, 255, 255, 255][..]);
        assert_eq!(take(&mut buffer).unwrap_err().code, Code::ResourceExhausted);
    }
}
