//! What travels over HTTP: the API's requests and answers.
//!
//! Promises: answers carry every field that the published SDKs require, in the shape they parse;
//! requests ignore unknown fields, because newer SDKs send more.

pub mod deployments;
pub mod domains;
pub mod envelope;
pub mod events;
pub mod files;
pub mod health;
pub mod keys;
pub mod pool;
pub mod previews;
pub mod sandboxes;
pub mod templates;
pub mod tenants;
pub mod workspaces;

pub use envelope::Data;
