//! The guest's binary, carried inside ours; see `build.rs`.

/// A static program for this machine's architecture.
pub(crate) static BYTES: &[u8] = include_bytes!(env!("GUEST_BINARY"));

#[cfg(test)]
mod tests {
    use super::*;

    /// It must run in any root filesystem: a 64-bit ELF file without an interpreter.
    #[test]
    fn the_guest_is_a_static_program() {
        assert_eq!(&BYTES[..5], b"\x7fELF\x02");
        assert!(!BYTES.windows(10).any(|window| window == b"ld-linux-x"), "it asks for a loader");
        assert!(BYTES.len() < 4 << 20, "{} bytes", BYTES.len());
    }
}
