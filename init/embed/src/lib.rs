//! `teamster-init` and its like as bytes: static programs that run in any image and without one. They are part
//! of the program that carries them, so that there is one file to install and all are always of one version. What they do stands in the crate `teamster-init`; nothing is decided here.

/// Pid 1 of every container.
pub const INIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/teamster-init"));

/// Keeps what a container writes.
pub const KEEPER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/teamster-keeper"));

/// Stands in for containerd's shim program where that is not to be a shim.
pub const SHIM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/teamster-shim"));

/// Stands in for runc where no container is to be made.
pub const RUNC: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/teamster-runc"));

#[cfg(test)]
mod tests {
    use super::{INIT, KEEPER, RUNC, SHIM};

    /// What asks for a dynamic loader in an ELF file: a program header of this type.
    const PT_INTERP: u32 = 3;

    fn header_types(program: &[u8]) -> Vec<u32> {
        let number = |at: usize, size: usize| {
            program[at..at + size].iter().rev().fold(0_usize, |all, byte| all << 8 | usize::from(*byte))
        };
        let (offset, size, count) = (number(32, 8), number(54, 2), number(56, 2));
        (0..count).map(|index| u32::try_from(number(offset + index * size, 4)).unwrap()).collect()
    }

    #[test]
    fn need_no_loader_and_are_small() {
        for program in [INIT, KEEPER, SHIM, RUNC] {
            assert_eq!(&program[..6], b"\x7fELF\x02\x01", "a 64-bit little-endian program");
            let types = header_types(program);
            assert!(types.contains(&1) && !types.contains(&PT_INTERP), "{types:?}");
            assert!(program.len() < 2 << 20, "{} bytes", program.len());
        }
    }
}
