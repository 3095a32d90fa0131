//! Memory that direct I/O accepts, without any unchecked code: a part of a larger allocation.

/// The most that can be taken, in bytes.
pub const LARGEST: u64 = 256 << 10;
/// No device asks for more.
const ALIGNMENT: usize = 4096;

/// A buffer whose start is aligned.
#[derive(Debug)]
pub struct Memory {
    bytes: Vec<u8>,
    start: usize,
}

impl Memory {
    /// Allocates it.
    #[must_use]
    pub fn new() -> Memory {
        let bytes = vec![0u8; usize::try_from(LARGEST).expect("it fits") + ALIGNMENT];
        let start = bytes.as_ptr().align_offset(ALIGNMENT);
        assert!(start < ALIGNMENT, "the allocation can be aligned");
        Memory { bytes, start }
    }

    /// Its first `length` bytes, which is at most [`LARGEST`].
    pub fn take(&mut self, length: u64) -> &mut [u8] {
        assert!(length <= LARGEST, "{length} bytes are more than the buffer has");
        &mut self.bytes[self.start..self.start + usize::try_from(length).expect("it fits")]
    }
}

impl Default for Memory {
    fn default() -> Memory {
        Memory::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_aligned_at_any_length() {
        let mut memory = Memory::new();
        for length in [512, 4096, LARGEST] {
            assert_eq!(memory.take(length).as_ptr().align_offset(ALIGNMENT), 0);
        }
    }
}
