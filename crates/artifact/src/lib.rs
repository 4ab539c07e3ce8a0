//! Blobs by digest, and what is made of them: the files of a site, tar archives of apps.
//!
//! Promises: a blob's name is the SHA-256 of its bytes; it appears under that name complete or
//! not at all, and is durable when `put` returns; a reader never takes changed bytes for good
//! ones without being told. Archives that come from a sandbox are hostile input (see
//! [`archive`]).

pub mod archive;
mod compress;
mod intake;
pub mod site;
mod store;

pub use intake::store_archive;
pub use store::{ArtifactStore, BlobReader, Error};
