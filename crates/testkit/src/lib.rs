//! The whole of control in one process, for tests: real database and artifact store, the fake
//! provider, an in-memory guest, an edge that acknowledges, and a clock that the test moves.
//!
//! Promises: tests wait for states, never for time; every wait has a deadline and says what it
//! waited for; nothing leaves the process but one Unix socket in a temporary folder.

mod dns;
mod edge;
mod guest;
mod platform;
mod probe;
mod wait;

pub use dns::FakeDns;
pub use edge::FakeEdge;
pub use guest::FakeGuest;
pub use platform::{ADDRESS, Platform, Tenant};
pub use probe::FakeProbe;
pub use wait::{DEADLINE, eventually};
