//! The edge as a whole: real sockets on every side, a control that speaks the real link.

mod control;
mod hold;
mod hostile;
mod lifecycle;
mod preview;
mod retry;
mod tls;
mod upstream;
mod world;
