//! Extractors whose rejections are [`Error`]s: JSON bodies, path ids, queries.

use axum::{
    extract::{
        FromRequest, FromRequestParts, Request,
        path::ErrorKind,
        rejection::{PathRejection, QueryRejection},
    },
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{StatusCode, request::Parts};
use serde::{Serialize, de::DeserializeOwned};

use crate::Error;

/// A JSON body. An empty one reads as `{}`, because SDKs send none where every field is
/// optional; the content type is not asked for. Syntax errors are 400, wrong fields 422 with the
/// field's name. As an answer it is `application/json`.
#[derive(Clone, Copy, Debug)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Error;

    async fn from_request(request: Request, state: &S) -> Result<Self, Error> {
        let bytes = Bytes::from_request(request, state).await.map_err(|rejection| {
            if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
                Error::TooLarge { message: "the body is larger than this call takes".to_owned() }
            } else {
                Error::BadRequest {
                    code: "BAD_REQUEST",
                    message: "the body could not be read to its end".to_owned(),
                }
            }
        })?;
        parse(if bytes.is_empty() { b"{}" } else { &bytes }).map(Self)
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

/// Reads a JSON object with errors that name the field.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    // serde would read a list as a struct's fields in order.
    if bytes.trim_ascii_start().first() == Some(&b'[') {
        let why = "must be a JSON object".to_owned();
        return Err(Error::InvalidFields { errors: vec![("body".to_owned(), why)] });
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        // A number where a word is expected is called bad syntax.
        let is_json = || serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok();
        if !inner.is_data() && is_json() {
            let why = "is of a wrong type".to_owned();
            return Error::InvalidFields { errors: vec![(field_of(&path, ""), why)] };
        }
        if !inner.is_data() {
            return Error::BadRequest {
                code: "INVALID_JSON",
                message: format!("the body is no JSON: {inner}"),
            };
        }
        let text = inner.to_string();
        let message = text.split(" at line ").next().unwrap_or(&text);
        Error::InvalidFields { errors: vec![(field_of(&path, message), plain(message))] }
    })?;
    json.end().map_err(|error| Error::BadRequest {
        code: "INVALID_JSON",
        message: format!("the body is no JSON: {error}"),
    })?;
    Ok(value)
}

/// A parser's complaint without the words of the language it is written in.
fn plain(message: &str) -> String {
    const WORDS: [(&str, &str); 10] = [
        ("expected u8", "expected a whole number from 0 to 255"),
        ("expected u16", "expected a whole number from 0 to 65535"),
        ("expected u32", "expected a whole number from 0 to 4294967295"),
        ("expected u64", "expected a whole number that is not negative"),
        ("expected usize", "expected a whole number that is not negative"),
        ("expected i64", "expected a whole number"),
        ("expected f64", "expected a number"),
        ("expected a sequence", "expected a list"),
        ("expected a map", "expected an object"),
        ("Failed to deserialize query string: ", ""),
    ];
    let message = match message.split_once("expected struct ") {
        Some((before, _)) => format!("{before}expected an object"),
        None => message.to_owned(),
    };
    WORDS.iter().fold(message, |text, (theirs, ours)| text.replace(theirs, ours))
}

/// serde reports a missing field at the object around it; its name is in the message.
fn field_of(path: &str, message: &str) -> String {
    let missing = message.strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
    match (path, missing) {
        (".", Some(field)) => field.to_owned(),
        (".", None) => "body".to_owned(),
        (path, Some(field)) => format!("{path}.{field}"),
        (path, None) => path.to_owned(),
    }
}

/// Parts of the path. An id that is none is `400 INVALID_ID`.
#[derive(Clone, Copy, Debug)]
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        match axum::extract::Path::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(PathRejection::FailedToDeserializePathParams(error)) => {
                let message = match error.kind() {
                    ErrorKind::Message(message) => message.clone(),
                    ErrorKind::DeserializeError { message, .. } => message.clone(),
                    other => other.to_string(),
                };
                Err(Error::InvalidId { message })
            }
            Err(error) => Err(Error::Internal(Box::new(error))),
        }
    }
}

/// The query string.
#[derive(Clone, Copy, Debug)]
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let query = axum::extract::Query::<T>::from_request_parts(parts, state).await;
        query.map(|axum::extract::Query(value)| Self(value)).map_err(|error: QueryRejection| {
            let text = error.body_text();
            match text.split_once("missing field `").and_then(|(_, rest)| rest.split_once('`')) {
                Some((field, _)) => Error::BadRequest {
                    code: "MISSING_PARAM",
                    message: format!("the query parameter `{field}` is missing"),
                },
                None => Error::BadRequest { code: "INVALID_QUERY", message: plain(&text) },
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    struct Body {
        #[expect(dead_code, reason = "only parsed")]
        name: String,
        #[expect(dead_code, reason = "only parsed")]
        inner: Option<Inner>,
        #[expect(dead_code, reason = "only parsed")]
        word: Option<Word>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Word {
        One,
    }

    #[derive(Debug, Deserialize)]
    struct Inner {
        #[expect(dead_code, reason = "only parsed")]
        port: u16,
    }

    #[test]
    fn complaints_are_in_plain_words() {
        for (body, says) in [
            (r#"{"name":"a","inner":{"port":99999}}"#, "from 0 to 65535"),
            (r#"{"name":"a","inner":7}"#, "expected an object"),
            (r#"{"name":"a","word":5}"#, "is of a wrong type"),
        ] {
            match parse::<Body>(body.as_bytes()).unwrap_err() {
                Error::InvalidFields { errors } => {
                    assert!(errors[0].1.ends_with(says), "{errors:?}");
                }
                other => panic!("{body}: {other:?}"),
            }
        }
        let query = "Failed to deserialize query string: limit: invalid digit found in string";
        assert_eq!(plain(query), "limit: invalid digit found in string");
    }

    #[test]
    fn the_wrong_field_is_named() {
        for (body, field) in [
            ("{}", "name"),
            (r#"{"name":1}"#, "name"),
            (r#"{"name":"a","inner":{}}"#, "inner.port"),
            (r#"{"name":"a","inner":{"port":99999}}"#, "inner.port"),
            ("\"a\"", "body"),
            ("[]", "body"),
        ] {
            match parse::<Body>(body.as_bytes()).unwrap_err() {
                Error::InvalidFields { errors } => assert_eq!(errors[0].0, field, "{body}"),
                other => panic!("{body}: {other:?}"),
            }
        }
        for body in ["{", r#"{"name":"a"} x"#] {
            let error = parse::<Body>(body.as_bytes()).unwrap_err();
            assert!(matches!(error, Error::BadRequest { code: "INVALID_JSON", .. }), "{error:?}");
        }
    }
}
