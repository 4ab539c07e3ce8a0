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
        // Program headers of an ELF64 file (elf(5)): a type of 3 is PT_INTERP.
        let number = |at: usize| usize::from(u16::from_le_bytes([BYTES[at], BYTES[at + 1]]));
        let (first, size, count) = (number(32), number(54), number(56));
        let kinds: Vec<_> = (0..count).map(|n| number(first + n * size)).collect();
        assert!(kinds.contains(&1) && !kinds.contains(&3), "it asks for a loader: {kinds:?}");
        assert!(BYTES.len() < 4 << 20, "{} bytes", BYTES.len());
    }
}
