//! The parts of this crate on a real kernel. Tests that need root say so when they are skipped.

mod rootfs;
