//! The platform as a whole, without a machine: what tenants ask for, what visitors get, and what
//! may fail in between.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod domains;
mod faults;
mod healing;
mod link;
mod publish;
mod recovery;
mod rollback;
mod told;
