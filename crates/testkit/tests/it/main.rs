//! The platform as a whole, without a machine: what tenants ask for, what visitors get, and what
//! may fail in between.

mod faults;
mod link;
mod publish;
mod recovery;
mod rollback;
