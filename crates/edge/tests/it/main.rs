//! The edge as a whole: real sockets on every side, a control that speaks the real link.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may end where its setup fails"
)]

mod control;
mod crowd;
mod hold;
mod hostile;
mod lifecycle;
mod preview;
mod retry;
mod scrub;
mod tls;
mod upstream;
mod world;
