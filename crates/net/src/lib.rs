//! Outgoing I/O behind the traits of `miosa-types`: calls into guests, probes of
//! apps, lookups of names.
//!
//! Promises: every call has a deadline; nothing here retries; bodies are streamed, so no call
//! holds more than a few hundred KiB of a file or of output.

mod connect;
pub mod dns;
pub mod guest;
mod http;
pub mod probe;
mod process;
