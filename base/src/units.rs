//! Units are types: an address of one space cannot be used in another by mistake.
//!
//! There is no `From<u64>` and no arithmetic that means nothing: an address plus a count of blocks is an
//! address, the difference of two addresses is a count, and that is all. Overflow panics (a corrupted number
//! must be caught where it is decoded, before it becomes a unit).
use core::fmt;

macro_rules! unit {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name($inner);

        impl $name {
            /// The first value of this unit.
            pub const ZERO: Self = Self(0);
            /// Wraps a raw number whose meaning the caller knows (decoded, counted or configured).
            pub const fn new(raw: $inner) -> Self {
                Self(raw)
            }
            /// The raw number, for encoding and for indexing.
            pub const fn get(self) -> $inner {
                self.0
            }
            /// The next value; panics at the end of the range.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

/// An address space counted in blocks: `address + Blocks = address`, `address - address = Blocks`.
macro_rules! address {
    ($name:ident) => {
        impl core::ops::Add<Blocks> for $name {
            type Output = Self;
            fn add(self, count: Blocks) -> Self {
                Self(self.0.checked_add(count.0).expect("address overflow"))
            }
        }
        impl core::ops::Sub<$name> for $name {
            type Output = Blocks;
            fn sub(self, start: $name) -> Blocks {
                Blocks(self.0.checked_sub(start.0).expect("address underflow"))
            }
        }
    };
}

unit!(/// A 512-byte sector of a volume, as the guest addresses it.
    Sector(u64));
unit!(/// A count of 512-byte sectors.
    Sectors(u64));
unit!(/// A logical block (4096 bytes) of a volume.
    Lba(u64));
unit!(/// A block of a group's space, the same on every leg; 40 bits on the drives.
    Pba(u64));
unit!(/// A block of one drive, counted from its start.
    DriveBlock(u64));
unit!(/// A count of blocks.
    Blocks(u64));
unit!(/// Position in a group's order of writes; 52 bits on the drives.
    Seq(u64));
unit!(/// An activation's number; only grows.
    Gen(u64));
unit!(/// Number of a commit in a group's log; only grows.
    CommitNo(u64));
unit!(/// Number of a checkpoint; never reused within an activation; 32 bits on the drives.
    CkptNo(u32));
unit!(/// A row: one addition to a group's space.
    RowNo(u32));
unit!(/// An extent of one drive.
    ExtentNo(u32));
unit!(/// A region: one extent's worth of a group's space, with a bitmap of its own.
    RegionNo(u32));
unit!(/// A volume of a group; never reused within the group.
    VolumeId(u32));
unit!(/// Index into a group's drive table.
    DriveIx(u8));
unit!(/// A mirror copy, counted from 0.
    LegId(u8));
unit!(/// A stripe column, counted from 0.
    Column(u8));

address!(Lba);
address!(Pba);
address!(DriveBlock);

impl Pba {
    /// Addresses must stay below this: a Pba has 40 bits in a `Ref` (4 PiB of space).
    pub const LIMIT: u64 = 1 << 40;
}

impl Seq {
    /// Seqs must stay below this: 52 bits in a `Ref` (a million writes a second for 142 years).
    pub const LIMIT: u64 = 1 << 52;
}

impl core::ops::Add for Blocks {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.checked_add(other.0).expect("block count overflow"))
    }
}

impl core::ops::Sub for Blocks {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0.checked_sub(other.0).expect("block count underflow"))
    }
}

impl core::ops::AddAssign for Blocks {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl core::ops::SubAssign for Blocks {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

impl Sector {
    /// The block that holds this sector.
    #[must_use]
    pub const fn lba(self) -> Lba {
        Lba(self.0 / crate::SECTORS_PER_BLOCK)
    }
    /// Byte offset of this sector within its block.
    #[must_use]
    pub const fn offset_in_block(self) -> usize {
        (self.0 % crate::SECTORS_PER_BLOCK) as usize * crate::SECTOR_BYTES
    }
}

impl core::ops::Add<Sectors> for Sector {
    type Output = Self;
    fn add(self, count: Sectors) -> Self {
        Self(self.0.checked_add(count.0).expect("sector overflow"))
    }
}

/// A 128-bit random identity (of a pool, drive, group, volume or activation).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    /// The absent identity.
    pub const NIL: Self = Self([0; 16]);
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    #[test]
    fn sectors_fall_into_blocks() {
        assert_eq!(Sector::new(7).lba(), Lba::new(0));
        assert_eq!(Sector::new(8).lba(), Lba::new(1));
        assert_eq!(Sector::new(9).offset_in_block(), 512);
    }

    #[test]
    fn addresses_and_counts() {
        assert_eq!(Pba::new(5) + Blocks::new(3), Pba::new(8));
        assert_eq!(Pba::new(8) - Pba::new(5), Blocks::new(3));
        assert_eq!(format!("{:?}", Seq::new(4)), "Seq(4)");
    }

    #[test]
    #[should_panic(expected = "underflow")]
    fn a_negative_count_is_a_bug() {
        let _ = Pba::new(1) - Pba::new(2);
    }

    #[test]
    fn uuids_print_in_the_usual_form() {
        let id = Uuid([0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde, 0xf0, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(format!("{id}"), "12345678-9abc-def0-0102-030405060708");
    }
}
