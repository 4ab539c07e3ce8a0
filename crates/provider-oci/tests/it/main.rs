//! The provider on the real thing: crun, the kernel, a template. Needs root; says when it cannot.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "these are tests, helpers included")]

mod contract;
mod isolation;
mod limits;
mod machine;
mod recovery;
mod rootfs;
mod running;
