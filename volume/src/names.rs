//! Names for people, in the headers of the home row: what a catalogue that is lost would take with it.
//!
//! Nothing that serves a group reads them; an import does. Crash story: they are written with the headers of a new
//! group. A rename writes the headers of the home extents again, one drive after the other and each flushed, then
//! changes the catalogue: a cut leaves at most one header torn, and of the others the newest writing counts.
use crate::layout::names as at;
use crate::sealed::{self, Bad};
use crate::{Header, layout};
use alloc::string::{String, ToString};
use base::{Block, Uuid, codec};

/// Names of a group and its volume, and the volume as it was asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Names {
    /// Number of this writing; the newest counts.
    pub written: u32,
    /// The group's name.
    pub group: String,
    /// The volume's name.
    pub volume: String,
    /// The volume's identity.
    pub volume_id: Uuid,
    /// The volume's size in bytes when this was written; the directory, once there is one, knows better.
    pub size_bytes: u64,
}

impl Names {
    /// Puts the names into a header. Panics if a name is longer than 128 bytes (checked on input).
    pub fn put(&self, header: &mut Block) {
        codec::put_u32(header, at::WRITTEN_AT, self.written);
        codec::put_uuid(header, at::VOLUME_ID_AT, self.volume_id);
        codec::put_u64(header, at::SIZE_AT, self.size_bytes);
        for (start, text) in [(at::GROUP_AT, &self.group), (at::VOLUME_AT, &self.volume)] {
            assert!(text.len() <= at::NAME_BYTES, "a name longer than {} bytes", at::NAME_BYTES);
            header[start..start + 1 + at::NAME_BYTES].fill(0);
            header[start] = text.len() as u8;
            header[start + 1..start + 1 + text.len()].copy_from_slice(text.as_bytes());
        }
        sealed::seal(header, layout::header::MAGIC);
    }

    /// Number of the writing of the names in a header that is right; 0 if it has none.
    pub(crate) fn written(header: &Block) -> u32 {
        codec::u32_at(header, at::WRITTEN_AT)
    }

    /// Puts the names of one header, which is right, into another one; and whatever else comes behind the header's own
    /// fields. Without allocation.
    pub(crate) fn copy(from: &Block, to: &mut Block) {
        to[at::WRITTEN_AT..].copy_from_slice(&from[at::WRITTEN_AT..]);
        sealed::seal(to, layout::header::MAGIC);
    }

    /// Reads the names in a header; `None` if it has none.
    ///
    /// # Errors
    /// `Bad`, as for every block with a check of its own.
    pub fn read(header: &Block) -> Result<Option<Self>, Bad> {
        Header::decode(header)?;
        let written = codec::u32_at(header, at::WRITTEN_AT);
        if written == 0 {
            return Ok(None);
        }
        Ok(Some(Self {
            written,
            group: text(header, at::GROUP_AT)?,
            volume: text(header, at::VOLUME_AT)?,
            volume_id: codec::uuid_at(header, at::VOLUME_ID_AT),
            size_bytes: codec::u64_at(header, at::SIZE_AT),
        }))
    }
}

fn text(block: &Block, start: usize) -> Result<String, Bad> {
    let length = usize::from(block[start]);
    if length > at::NAME_BYTES {
        return Err(Bad::Content);
    }
    let bytes = &block[start + 1..start + 1 + length];
    core::str::from_utf8(bytes).map(ToString::to_string).map_err(|_| Bad::Content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::{Column, ExtentNo, LegId, RowNo};

    fn header() -> Header {
        Header {
            pool: Uuid([1; 16]),
            drive: Uuid([2; 16]),
            group: Uuid([3; 16]),
            extent: ExtentNo::new(7),
            row: RowNo::ZERO,
            leg: LegId::new(1),
            column: Column::new(0),
        }
    }

    fn names(volume: &str) -> Names {
        let volume_id = Uuid([9; 16]);
        Names { written: 1, group: "g".into(), volume: volume.into(), volume_id, size_bytes: 4096 }
    }

    /// The bytes of format version 1.
    #[test]
    fn golden() {
        let mut block = header().encode();
        assert_eq!(Names::read(&block), Ok(None));
        names("vol").put(&mut block);
        assert_eq!(Header::decode(&block), Ok(header()), "the header says what it said");
        assert_eq!(
            &block[128..168],
            &[&[1, 0, 0, 0, 0, 0, 0, 0][..], &[9; 16], &[0, 16, 0, 0, 0, 0, 0, 0], &[0; 8]].concat()[..]
        );
        assert_eq!((&block[256..259], &block[392..397]), (&[1, b'g', 0][..], &[3, b'v', b'o', b'l', 0][..]));
        assert_eq!(Names::read(&block), Ok(Some(names("vol"))));
    }

    #[test]
    fn a_shorter_name_leaves_nothing_of_the_longer_and_damage_is_found() {
        let mut block = header().encode();
        names(&"x".repeat(128)).put(&mut block);
        names("v").put(&mut block);
        let mut fresh = header().encode();
        names("v").put(&mut fresh);
        assert_eq!(block, fresh);
        block[300] ^= 1;
        assert_eq!(Names::read(&block), Err(Bad::Check));
    }
}
