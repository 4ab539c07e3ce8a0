//! The provider on the real thing: crun, the kernel, a template. Needs root; says when it cannot.

mod contract;
mod isolation;
mod limits;
mod machine;
mod recovery;
