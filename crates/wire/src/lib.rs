//! What travels over HTTP: the API's requests and answers.
//!
//! Promises: answers carry every field that the published SDKs require, in the shape they parse;
//! requests ignore unknown fields, because newer SDKs send more.

pub mod envelope;

pub use envelope::Data;
