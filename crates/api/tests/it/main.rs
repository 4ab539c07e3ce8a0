//! The API through its router: protocol, tenants, and who may see what.

mod authorization;
mod idempotency;
mod protocol;
mod support;
mod tenants;
