//! The envelope of an encrypted group, in the headers of its home row: its secret, wrapped by a key that lies elsewhere.
//!
//! Nothing that serves a group reads it; an import does, and whoever has the wrapping key opens the group with it. What is
//! inside is nothing to this crate.
//!
//! Crash story: it is written with the headers of a new group. When the wrapping key is exchanged, the headers are written
//! again, one drive after the other and each flushed, and only then the former wrapping key goes: a cut leaves at most one
//! header torn, and what the others have can be unwrapped. Names have a number of their own: a header may have the newest
//! of one and not of the other.
use crate::Header;
use crate::layout::{envelope as at, header};
use crate::sealed::{self, Bad};
use alloc::boxed::Box;
use base::{Block, codec};

/// The envelope as a header has it.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredEnvelope {
    /// Number of this writing; the newest counts.
    pub written: u32,
    /// The envelope, filled up with zeroes; nothing else when it was destroyed.
    pub bytes: Box<[u8; at::BYTES]>,
}

impl core::fmt::Debug for StoredEnvelope {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "StoredEnvelope({}, destroyed {})", self.written, self.is_destroyed())
    }
}

impl StoredEnvelope {
    /// The envelope of a writing, from 1. Panics if it is longer than 1024 bytes, or the number is 0.
    pub fn new(written: u32, envelope: &[u8]) -> Self {
        assert!(written > 0, "writings are counted from 1");
        let mut bytes = Box::new([0; at::BYTES]);
        bytes[..envelope.len()].copy_from_slice(envelope);
        Self { written, bytes }
    }

    /// Whether nobody can read the group any more.
    pub fn is_destroyed(&self) -> bool {
        self.bytes.iter().all(|byte| *byte == 0)
    }

    /// Puts the envelope into a header, in place of the one that it had.
    pub fn put(&self, header: &mut Block) {
        codec::put_u32(header, at::WRITTEN_AT, self.written);
        header[at::AT..at::AT + at::BYTES].copy_from_slice(&self.bytes[..]);
        sealed::seal(header, header::MAGIC);
    }

    /// Number of the writing in a header that is right; 0 if it has none.
    pub(crate) fn written(header: &Block) -> u32 {
        codec::u32_at(header, at::WRITTEN_AT)
    }

    /// Puts the envelope of one header, which is right, into another one. Without allocation.
    pub(crate) fn copy(from: &Block, to: &mut Block) {
        codec::put_u32(to, at::WRITTEN_AT, Self::written(from));
        to[at::AT..at::AT + at::BYTES].copy_from_slice(&from[at::AT..at::AT + at::BYTES]);
        sealed::seal(to, header::MAGIC);
    }

    /// Reads the envelope in a header; `None` if it has none.
    ///
    /// # Errors
    /// `Bad`, as for every block with a check of its own.
    pub fn read(block: &Block) -> Result<Option<Self>, Bad> {
        Header::decode(block)?;
        let written = Self::written(block);
        let read = || Self::new(written, &block[at::AT..at::AT + at::BYTES]);
        Ok((written > 0).then(read))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Names;
    use crate::names::Found;
    use base::{Column, ExtentNo, LegId, RowNo, Uuid};

    fn header() -> Block {
        let header = Header {
            pool: Uuid([1; 16]),
            drive: Uuid([2; 16]),
            group: Uuid([3; 16]),
            extent: ExtentNo::new(7),
            row: RowNo::ZERO,
            leg: LegId::new(1),
            column: Column::new(0),
        };
        header.encode()
    }

    /// The bytes of format version 1.
    #[test]
    fn golden() {
        let mut block = header();
        assert_eq!(StoredEnvelope::read(&block), Ok(None));
        let envelope = StoredEnvelope::new(0x0102, &[0xab; 5]);
        envelope.put(&mut block);
        assert_eq!(&block[576..580], &[2, 1, 0, 0]);
        assert_eq!(&block[1022..1031], &[0, 0, 0xab, 0xab, 0xab, 0xab, 0xab, 0, 0]);
        assert_eq!(StoredEnvelope::read(&block), Ok(Some(envelope)));
        block[1030] = 1;
        assert_eq!(StoredEnvelope::read(&block), Err(Bad::Check));
    }

    #[test]
    fn it_is_written_apart_from_names() {
        let (mut block, id) = (header(), Uuid([9; 16]));
        let names =
            Names { written: 4, group: "g".into(), volume: "v".into(), volume_id: id, size_bytes: 4096 };
        StoredEnvelope::new(1, &[7; 1024]).put(&mut block);
        names.put(&mut block, None);
        StoredEnvelope::new(2, &[8]).put(&mut block);
        assert_eq!(Names::read(&block), Ok(Found::Plain(names)));
        assert_eq!(StoredEnvelope::read(&block), Ok(Some(StoredEnvelope::new(2, &[8]))));
        let destroyed = StoredEnvelope::new(3, &[]);
        destroyed.put(&mut block);
        assert!(StoredEnvelope::read(&block).expect("right").expect("there").is_destroyed());
        let mut other = header();
        StoredEnvelope::copy(&block, &mut other);
        assert_eq!(StoredEnvelope::read(&other), Ok(Some(destroyed)));
        assert_eq!(Names::read(&other), Ok(Found::None));
    }
}
