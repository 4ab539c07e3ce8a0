//! The API through its router: protocol, tenants, and who may see what.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod authorization;
mod domains;
mod idempotency;
mod limits;
mod openapi;
mod paging;
mod protocol;
mod requests;
mod strangers;
mod support;
mod tenants;
