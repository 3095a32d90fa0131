//! `Ref`: where a block is, when it was written, and how to tell it from any other.
//!
//! Every block but the superblock is reached through a Ref, and a reader believes a block only if it has the
//! Ref's check. So damage, a misplaced or lost write and a replayed older block are all found by the reader,
//! from the leaf up to the superblock. Invariants: a hole has a Seq, which it keeps when it is split (a walk
//! "newer than X" must find discards too); Pba 0 is the header of the first extent, so no Ref to a block has
//! it, and 32 zero bytes are never a Ref of the map.
use crate::layout::{REF_CHECK, REF_FLAG_BITS, REF_TAG};
use base::{Blocks, Check, CkptNo, Pba, Seq, codec};

/// The four flag bits of a `Ref`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct RefFlags(u8);

impl RefFlags {
    /// No flag.
    pub const NONE: Self = Self(0);
    /// Nothing is stored: the blocks below read as zero since *when*.
    pub const HOLE: Self = Self(1);
    /// A walk prunes nothing below (for rollback). Reserved: version 1 never sets it and refuses it.
    pub const GRAFTED: Self = Self(2);

    /// Whether all flags of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
    /// The raw bits, 0..16.
    pub const fn get(self) -> u8 {
        self.0
    }
}

/// 32 bytes that lead to a block of data, to a page, or to nothing (a hole).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Ref {
    /// Where; 0 for holes.
    pub pba: Pba,
    /// What kind.
    pub flags: RefFlags,
    /// Data and holes: the Seq of the write. Pages: the newest Seq below, holes included.
    pub when: Seq,
    /// Data: whose space holds the block (0 = the group's own). Pages: the checkpoint that wrote them.
    pub tag: u32,
    /// The check of the 4096 bytes; none for holes.
    pub check: Check,
}

impl Ref {
    /// No Ref at all, 32 zero bytes. Valid in directories only.
    pub const ABSENT: Self =
        Self { pba: Pba::ZERO, flags: RefFlags::NONE, when: Seq::ZERO, tag: 0, check: Check::NONE };

    /// Nothing since the write (discard, write-zeroes, creation) `seq`.
    pub fn hole(seq: Seq) -> Self {
        Self { flags: RefFlags::HOLE, when: in_range(seq), ..Self::ABSENT }
    }

    /// A block of data in the group's own space, written by `seq`.
    pub fn data(pba: Pba, seq: Seq, check: Check) -> Self {
        Self { pba: stored(pba), flags: RefFlags::NONE, when: in_range(seq), tag: 0, check }
    }

    /// A page that checkpoint `ckpt` wrote. `newest_below` is the newest Seq among its Refs.
    pub fn page(pba: Pba, newest_below: Seq, ckpt: CkptNo, check: Check) -> Self {
        Self { pba: stored(pba), flags: RefFlags::NONE, when: in_range(newest_below), tag: ckpt.get(), check }
    }

    /// Whether nothing is stored.
    pub const fn is_hole(&self) -> bool {
        self.flags.contains(RefFlags::HOLE)
    }

    /// Whether this is no Ref (directories only).
    pub fn is_absent(&self) -> bool {
        *self == Self::ABSENT
    }

    /// The checkpoint that wrote the page.
    pub const fn ckpt(&self) -> CkptNo {
        CkptNo::new(self.tag)
    }

    /// Writes the 32 bytes of the format to the start of `to`.
    pub fn encode(&self, to: &mut [u8]) {
        assert!(self.pba.get() < Pba::LIMIT && self.when.get() < Seq::LIMIT);
        assert!(self.flags.0 < 1 << REF_FLAG_BITS);
        let word = self.when.get() << REF_FLAG_BITS | u64::from(self.flags.0);
        // The Pba ends and the word begins at byte 5: the low 64 bits hold 40 of the one and 24 of the other.
        codec::put_u64(to, 0, self.pba.get() | word << 40);
        codec::put_u32(to, 8, (word >> 24) as u32);
        codec::put_u32(to, REF_TAG, self.tag);
        codec::put_check(to, REF_CHECK, self.check);
    }

    /// Reads 32 bytes. Any bytes are a Ref of some kind; see `valid`.
    pub fn decode(from: &[u8]) -> Self {
        let low = codec::u64_at(from, 0);
        let word = low >> 40 | u64::from(codec::u32_at(from, 8)) << 24;
        Self {
            pba: Pba::new(low & (Pba::LIMIT - 1)),
            flags: RefFlags((word & ((1 << REF_FLAG_BITS) - 1)) as u8),
            when: Seq::new(word >> REF_FLAG_BITS),
            tag: codec::u32_at(from, REF_TAG),
            check: codec::check_at(from, REF_CHECK),
        }
    }

    /// Whether this may stand in a map of a group with `space_blocks` blocks: a hole that names nothing, or a
    /// block inside the space other than block 0, with no flag that this version does not know.
    pub fn valid(&self, space_blocks: Blocks) -> bool {
        if self.is_hole() {
            return *self == Self { flags: RefFlags::HOLE, when: self.when, ..Self::ABSENT };
        }
        self.flags == RefFlags::NONE && self.pba != Pba::ZERO && self.pba.get() < space_blocks.get()
    }
}

fn in_range(seq: Seq) -> Seq {
    assert!(seq.get() < Seq::LIMIT, "Seq {seq} does not fit into a Ref");
    seq
}

fn stored(pba: Pba) -> Pba {
    assert!(pba != Pba::ZERO && pba.get() < Pba::LIMIT, "no block of a group lies at Pba {pba}");
    pba
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHECK: Check = Check([0xa0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0xaf]);

    fn bytes(r: &Ref) -> [u8; 32] {
        let mut out = [0xee; 32];
        r.encode(&mut out);
        out
    }

    /// Format version 1. If this fails the format has changed: that needs a new version, not new bytes here.
    #[test]
    fn golden_bytes() {
        let page = Ref::page(Pba::new(0x12_3456_789a), Seq::new(0xb_cdef_0123_4567), CkptNo::new(7), CHECK);
        let mut golden = [
            0x9a, 0x78, 0x56, 0x34, 0x12, // Pba
            0x70, 0x56, 0x34, 0x12, 0xf0, 0xde, 0xbc, // flags, when
            7, 0, 0, 0, // checkpoint
            0xa0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0xaf,
        ];
        assert_eq!(bytes(&page), golden);
        let data = Ref::data(page.pba, page.when, CHECK);
        golden[12] = 0;
        assert_eq!(bytes(&data), golden);
        let mut hole = [0; 32];
        hole[5] = 0x51;
        hole[6] = 0x34;
        assert_eq!(bytes(&Ref::hole(Seq::new(0x345))), hole);
        assert_eq!(bytes(&Ref::ABSENT), [0; 32]);
    }

    #[test]
    fn extremes_survive_the_bytes() {
        for r in [
            Ref::data(Pba::new(Pba::LIMIT - 1), Seq::new(Seq::LIMIT - 1), Check([0xff; 16])),
            Ref::page(Pba::new(1), Seq::ZERO, CkptNo::new(u32::MAX), Check::NONE),
            Ref::hole(Seq::new(Seq::LIMIT - 1)),
            Ref::decode(&[0xff; 32]),
        ] {
            assert_eq!(Ref::decode(&bytes(&r)), r);
        }
    }

    #[test]
    fn what_does_not_belong_into_a_map_is_invalid() {
        let space = Blocks::new(100);
        let data = Ref::data(Pba::new(99), Seq::new(3), CHECK);
        assert!(data.valid(space) && Ref::hole(Seq::new(3)).valid(space));
        assert!(!Ref { pba: Pba::new(100), ..data }.valid(space), "outside the space");
        assert!(!Ref::ABSENT.valid(space), "zeroes are no Ref");
        assert!(!Ref { flags: RefFlags::GRAFTED, ..data }.valid(space), "reserved");
        assert!(!Ref { flags: RefFlags(4), ..data }.valid(space), "unknown");
        assert!(!Ref { pba: Pba::new(1), ..Ref::hole(Seq::new(3)) }.valid(space), "a hole is nowhere");
        assert!(!Ref { check: CHECK, ..Ref::hole(Seq::new(3)) }.valid(space));
    }
}
