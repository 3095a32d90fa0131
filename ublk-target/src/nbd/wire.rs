//! The NBD protocol's numbers and messages, as far as this server speaks it (doc/proto.md of the NBD project).
//!
//! All numbers are big-endian. Views here never panic on what a client sent: they return `None`.
use base::Fault;

/// First bytes of the server's greeting, "NBDMAGIC".
pub(super) const GREETING: u64 = 0x4e42_444d_4147_4943;
/// "IHAVEOPT": second word of the greeting, first of each option.
pub(super) const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
const CHUNK_MAGIC: u32 = 0x668e_33ef;

/// Handshake flags: fixed newstyle, no zeroes after the export; the client's have the same values.
pub(super) const FIXED_NEWSTYLE: u32 = 1;
pub(super) const NO_ZEROES: u32 = 2;
/// Zeroes that follow an export's flags for clients that do not know better.
pub(super) const EXPORT_PADDING: usize = 124;

pub(super) mod option {
    pub const EXPORT_NAME: u32 = 1;
    pub const ABORT: u32 = 2;
    pub const LIST: u32 = 3;
    pub const INFO: u32 = 6;
    pub const GO: u32 = 7;
    pub const STRUCTURED_REPLY: u32 = 8;
    pub const LIST_META_CONTEXT: u32 = 9;
    pub const SET_META_CONTEXT: u32 = 10;
}

pub(super) mod reply {
    pub const ACK: u32 = 1;
    pub const SERVER: u32 = 2;
    pub const INFO: u32 = 3;
    pub const META_CONTEXT: u32 = 4;
    pub const ERR_UNSUPPORTED: u32 = (1 << 31) + 1;
    pub const ERR_INVALID: u32 = (1 << 31) + 3;
    pub const ERR_UNKNOWN: u32 = (1 << 31) + 6;
}

pub(super) mod info {
    pub const EXPORT: u16 = 0;
    pub const BLOCK_SIZE: u16 = 3;
}

/// What the export can do.
pub(super) mod transmission {
    pub const HAS_FLAGS: u16 = 1;
    pub const READ_ONLY: u16 = 1 << 1;
    pub const SEND_FLUSH: u16 = 1 << 2;
    pub const SEND_FUA: u16 = 1 << 3;
    pub const SEND_TRIM: u16 = 1 << 5;
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
}

pub(super) mod command {
    pub const READ: u16 = 0;
    pub const WRITE: u16 = 1;
    pub const DISCONNECT: u16 = 2;
    pub const FLUSH: u16 = 3;
    pub const TRIM: u16 = 4;
    pub const WRITE_ZEROES: u16 = 6;
    pub const BLOCK_STATUS: u16 = 7;
    pub const FLAG_FUA: u16 = 1;
    pub const FLAG_NO_HOLE: u16 = 1 << 1;
    pub const FLAG_REQ_ONE: u16 = 1 << 3;
    pub const FLAG_FAST_ZERO: u16 = 1 << 4;
}

pub(super) mod chunk {
    pub const DONE: u16 = 1;
    pub const NONE: u16 = 0;
    pub const OFFSET_DATA: u16 = 1;
    pub const BLOCK_STATUS: u16 = 5;
    pub const ERROR: u16 = (1 << 15) + 1;
}

/// The one metadata context, and the number that we give it.
pub(super) const ALLOCATION: &[u8] = b"base:allocation";
pub(super) const ALLOCATION_ID: u32 = 1;
pub(super) const STATE_HOLE: u32 = 1;
pub(super) const STATE_ZERO: u32 = 2;

/// Error numbers as they go over the wire (Linux's values by definition of the protocol).
pub(super) mod error {
    pub const PERM: u32 = 1;
    pub const IO: u32 = 5;
    pub const INVALID: u32 = 22;
    pub const NO_SPACE: u32 = 28;
    pub const NOT_SUPPORTED: u32 = 95;
}

/// A fault in the protocol's words.
pub(super) fn error_of(fault: Fault) -> u32 {
    match fault {
        Fault::NoSpace => error::NO_SPACE,
        Fault::ReadOnly => error::PERM,
        Fault::Invalid => error::INVALID,
        Fault::Medium | Fault::Gone | Fault::Timeout | Fault::Io => error::IO,
    }
}

/// Header of an option.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct OptionHeader {
    pub option: u32,
    pub len: u32,
}

impl OptionHeader {
    pub const BYTES: usize = 16;

    /// `None`: not an option at all.
    pub fn parse(bytes: &[u8; Self::BYTES]) -> Option<Self> {
        (be64(bytes, 0)? == OPTION_MAGIC).then_some(())?;
        Some(Self { option: be32(bytes, 8)?, len: be32(bytes, 12)? })
    }
}

/// A request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct RequestHeader {
    pub flags: u16,
    pub command: u16,
    pub cookie: u64,
    pub offset: u64,
    pub len: u32,
}

impl RequestHeader {
    pub const BYTES: usize = 28;

    /// `None`: not a request at all.
    pub fn parse(bytes: &[u8; Self::BYTES]) -> Option<Self> {
        (be32(bytes, 0)? == REQUEST_MAGIC).then_some(())?;
        Some(Self {
            flags: be16(bytes, 4)?,
            command: be16(bytes, 6)?,
            cookie: be64(bytes, 8)?,
            offset: be64(bytes, 16)?,
            len: be32(bytes, 24)?,
        })
    }
}

/// Header of the reply to an option.
pub(super) fn option_reply(option: u32, kind: u32, len: u32) -> [u8; 20] {
    let mut out = [0; 20];
    out[..8].copy_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
    out[8..12].copy_from_slice(&option.to_be_bytes());
    out[12..16].copy_from_slice(&kind.to_be_bytes());
    out[16..].copy_from_slice(&len.to_be_bytes());
    out
}

pub(super) const SIMPLE_REPLY_BYTES: usize = 16;

/// A simple reply; a read's data follows if there is no error.
pub(super) fn simple_reply(error: u32, cookie: u64) -> [u8; SIMPLE_REPLY_BYTES] {
    let mut out = [0; SIMPLE_REPLY_BYTES];
    out[..4].copy_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
    out[4..8].copy_from_slice(&error.to_be_bytes());
    out[8..].copy_from_slice(&cookie.to_be_bytes());
    out
}

pub(super) const CHUNK_BYTES: usize = 20;

/// Header of a chunk of a structured reply.
pub(super) fn chunk_header(flags: u16, kind: u16, cookie: u64, len: u32) -> [u8; CHUNK_BYTES] {
    let mut out = [0; CHUNK_BYTES];
    out[..4].copy_from_slice(&CHUNK_MAGIC.to_be_bytes());
    out[4..6].copy_from_slice(&flags.to_be_bytes());
    out[6..8].copy_from_slice(&kind.to_be_bytes());
    out[8..16].copy_from_slice(&cookie.to_be_bytes());
    out[16..].copy_from_slice(&len.to_be_bytes());
    out
}

/// Bytes before the data in a chunk of read data: the header and the offset.
pub(super) const DATA_CHUNK_BYTES: usize = CHUNK_BYTES + 8;

/// An error chunk without a message, which ends its reply.
pub(super) fn error_chunk(error: u32, cookie: u64) -> [u8; CHUNK_BYTES + 6] {
    let mut out = [0; CHUNK_BYTES + 6];
    out[..CHUNK_BYTES].copy_from_slice(&chunk_header(chunk::DONE, chunk::ERROR, cookie, 6));
    out[CHUNK_BYTES..CHUNK_BYTES + 4].copy_from_slice(&error.to_be_bytes());
    out
}

/// A big-endian number at a byte offset, if the bytes reach that far.
pub(super) fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}
pub(super) fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}
pub(super) fn be64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        assert_eq!(&GREETING.to_be_bytes(), b"NBDMAGIC");
        assert_eq!(&OPTION_MAGIC.to_be_bytes(), b"IHAVEOPT");
        assert_eq!(simple_reply(5, 0x0102), [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(option_reply(7, reply::ACK, 0)[..8], [0, 3, 0xe8, 0x89, 4, 0x55, 0x65, 0xa9]);
        let error = error_chunk(22, 1);
        assert_eq!(error[..8], [0x66, 0x8e, 0x33, 0xef, 0, 1, 0x80, 1]);
        assert_eq!(error[16..], [0, 0, 0, 6, 0, 0, 0, 22, 0, 0]);
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let mut bytes = [0; RequestHeader::BYTES];
        assert_eq!(RequestHeader::parse(&bytes), None);
        bytes[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        bytes[7] = 3;
        bytes[27] = 9;
        let header = RequestHeader::parse(&bytes).expect("a request");
        assert_eq!((header.command, header.len), (command::FLUSH, 9));
        assert_eq!(OptionHeader::parse(&[0; OptionHeader::BYTES]), None);
    }
}
