//! Names for people, in the headers of the home row: what a catalogue that is lost would take with it.
//!
//! Nothing that serves a group reads them; an import does. Those of an encrypted group are secret as its data is: they lie
//! there encrypted, and only their number is in plain, so that a scrub can tell which are the newest without keys.
//!
//! Crash story: they are written with the headers of a new group. A rename writes the headers of the home extents again,
//! one drive after the other and each flushed, then changes the catalogue: a cut leaves at most one header torn, and of the
//! others the newest writing counts. A repetition takes a higher number and, where they are encrypted, another salt.
use crate::keys::{GroupKeys, Key};
use crate::layout::names as at;
use crate::sealed::{self, Bad};
use crate::{Header, layout};
use alloc::boxed::Box;
use alloc::string::{String, ToString};
use base::{BLOCK_BYTES, Block, NONCE_BYTES, Nonce, TAG_BYTES, Tag, Uuid, codec};

/// Each writing has a key of its own, made of its salt, and under it one text is sealed: the names of this writing, the
/// same on every drive. So there is nothing to count, and the nonce is always the same.
const NONCE: Nonce = Nonce::of_vector([0; NONCE_BYTES]);

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

/// What names of an encrypted group are sealed with.
#[derive(Clone, Copy, Debug)]
pub struct NameSeal<'a> {
    /// The group's keys.
    pub keys: &'a GroupKeys,
    /// Random, drawn anew for each writing; all headers of one writing have the same.
    pub salt: [u8; at::SALT_BYTES],
}

/// The names in a header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found {
    /// It has none.
    None,
    /// Of a plain group.
    Plain(Names),
    /// Of an encrypted group.
    Sealed(SealedNames),
}

impl Found {
    /// Number of the writing; 0 if there are none.
    pub fn written(&self) -> u32 {
        match self {
            Self::None => 0,
            Self::Plain(names) => names.written,
            Self::Sealed(sealed) => sealed.written,
        }
    }
}

/// Names that take the group's keys to read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SealedNames {
    written: u32,
    group: Uuid,
    salt: [u8; at::SALT_BYTES],
    tag: Tag,
    text: Box<[u8; at::TEXT_BYTES]>,
}

impl SealedNames {
    /// Opens them; `None` if these are not the keys of their group, or somebody changed them.
    ///
    /// # Errors
    /// `Content`: they were sealed with these keys and are impossible all the same.
    pub fn open(&self, keys: &GroupKeys) -> Result<Option<Names>, Bad> {
        let mut cipher = keys.ciphers.cipher();
        cipher.set_key(&self.key(keys));
        let mut block = [0; BLOCK_BYTES];
        block[text_range()].copy_from_slice(&self.text[..]);
        if !cipher.open(&NONCE, &about(self.group, self.written), &mut block[text_range()], &self.tag) {
            return Ok(None);
        }
        Names::fields(&block, self.written).map(Some)
    }

    fn key(&self, keys: &GroupKeys) -> Key {
        keys.names(self.group, &self.salt)
    }

    fn read(header: &Block, group: Uuid, written: u32) -> Self {
        let bytes = |at: usize, len: usize| &header[at..at + len];
        Self {
            written,
            group,
            salt: bytes(at::SALT_AT, at::SALT_BYTES).try_into().expect("as long"),
            tag: Tag(bytes(at::TAG_AT, TAG_BYTES).try_into().expect("as long")),
            text: Box::new(header[text_range()].try_into().expect("as long")),
        }
    }
}

/// Where the names lie, in plain or encrypted.
const fn text_range() -> core::ops::Range<usize> {
    at::TEXT_AT..at::TEXT_AT + at::TEXT_BYTES
}

/// What is sealed beside them: whose they are, and which writing.
fn about(group: Uuid, written: u32) -> [u8; 20] {
    let mut about = [0; 20];
    about[..16].copy_from_slice(&group.0);
    about[16..].copy_from_slice(&written.to_le_bytes());
    about
}

impl Names {
    /// Puts the names into a header, whatever names it had. Whoever leaves `seal` away shows them to everybody who has the
    /// drive: only for a group that is not encrypted. Panics if a name is longer than 128 bytes (checked on input).
    pub fn put(&self, header: &mut Block, seal: Option<&NameSeal<'_>>) {
        codec::put_u32(header, at::WRITTEN_AT, self.written);
        header[at::KIND_AT] = at::PLAIN;
        header[text_range()].fill(0);
        header[at::TAG_AT..at::TAG_AT + TAG_BYTES].fill(0);
        header[at::SALT_AT..at::SALT_AT + at::SALT_BYTES].fill(0);
        self.put_fields(header);
        if let Some(seal) = seal {
            self.seal(header, seal);
        }
        sealed::seal(header, layout::header::MAGIC);
    }

    fn put_fields(&self, header: &mut Block) {
        codec::put_uuid(header, at::VOLUME_ID_AT, self.volume_id);
        codec::put_u64(header, at::SIZE_AT, self.size_bytes);
        for (start, text) in [(at::GROUP_AT, &self.group), (at::VOLUME_AT, &self.volume)] {
            assert!(text.len() <= at::NAME_BYTES, "a name longer than {} bytes", at::NAME_BYTES);
            header[start] = text.len() as u8;
            header[start + 1..start + 1 + text.len()].copy_from_slice(text.as_bytes());
        }
    }

    /// Encrypts the names that a header has in plain, in place.
    fn seal(&self, header: &mut Block, seal: &NameSeal<'_>) {
        let group = codec::uuid_at(header, layout::header::GROUP_AT);
        let mut cipher = seal.keys.ciphers.cipher();
        cipher.set_key(&seal.keys.names(group, &seal.salt));
        let tag = cipher.seal(&NONCE, &about(group, self.written), &mut header[text_range()]);
        header[at::KIND_AT] = at::SEALED;
        header[at::TAG_AT..at::TAG_AT + TAG_BYTES].copy_from_slice(&tag.0);
        header[at::SALT_AT..at::SALT_AT + at::SALT_BYTES].copy_from_slice(&seal.salt);
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

    /// Puts what a header has behind its own fields, as far as this build knows it, into another one: what differs then
    /// is of somebody else.
    pub fn copy_known(from: &Block, to: &mut Block) {
        for (start, bytes) in [
            (at::WRITTEN_AT, at::KIND_AT + 1 - at::WRITTEN_AT),
            (at::TAG_AT, TAG_BYTES),
            (at::SALT_AT, at::SALT_BYTES),
            (layout::envelope::WRITTEN_AT, 4),
            (layout::envelope::AT, layout::envelope::BYTES),
        ] {
            to[start..start + bytes].copy_from_slice(&from[start..start + bytes]);
        }
        to[text_range()].fill(0);
        match from[at::KIND_AT] {
            at::SEALED => to[text_range()].copy_from_slice(&from[text_range()]),
            _ => drop(Self::fields(from, Self::written(from)).map(|names| names.put_fields(to))),
        }
        sealed::seal(to, layout::header::MAGIC);
    }

    /// Reads the names in a header.
    ///
    /// # Errors
    /// `Bad`, as for every block with a check of its own.
    pub fn read(header: &Block) -> Result<Found, Bad> {
        let group = Header::decode(header)?.group;
        let written = codec::u32_at(header, at::WRITTEN_AT);
        match (written, header[at::KIND_AT]) {
            (0, _) => Ok(Found::None),
            (_, at::PLAIN) => Self::fields(header, written).map(Found::Plain),
            (_, at::SEALED) => Ok(Found::Sealed(SealedNames::read(header, group, written))),
            _ => Err(Bad::Content),
        }
    }

    /// The names that lie in plain in a block laid out as a header is.
    fn fields(block: &Block, written: u32) -> Result<Self, Bad> {
        Ok(Self {
            written,
            group: text(block, at::GROUP_AT)?,
            volume: text(block, at::VOLUME_AT)?,
            volume_id: codec::uuid_at(block, at::VOLUME_ID_AT),
            size_bytes: codec::u64_at(block, at::SIZE_AT),
        })
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
mod tests;
