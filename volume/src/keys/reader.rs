//! Reading an encrypted group that nobody serves: for tools that have its keys.
use super::GroupKeys;
use super::memory::{Form, Keys, is_stored, open_page};
use crate::superblock::{Home, Superblock};
use alloc::vec::Vec;
use base::{Block, Check, CkptNo, Lba, Pba, Seq, Uuid, VolumeId};
use rlog::{History, Line, Unseal};

/// The keys of a group, and what belongs to which of them.
pub struct Reader(Keys);

impl Reader {
    /// No line of the history is known yet.
    pub fn new(keys: GroupKeys, group: Uuid) -> Self {
        Self(Keys::new(keys, group))
    }

    /// The keys that it reads with.
    pub fn keys(&self) -> &GroupKeys {
        self.0.group_keys()
    }

    /// The lines of the history, oldest first. False, and nothing changes, if they are not in order.
    pub fn follow(&mut self, lines: &[Line]) -> bool {
        let mut history = History::new();
        let in_order = lines.iter().all(|line| history.append(*line).is_ok());
        if in_order {
            self.0.follow(history);
        }
        in_order
    }

    /// Whether a block that decodes to this superblock was made with these keys.
    pub fn is_genuine(&self, superblock: &Superblock, block: &Block) -> bool {
        superblock.is_genuine(block, Some(&self.0))
    }

    /// The block of the copy of a superblock that lies at `home`, as the group makes it.
    pub fn superblock(&self, superblock: &Superblock, home: Home) -> Block {
        superblock.encode_with(home, Some(&self.0))
    }

    /// The number of the data key that a write with this Seq is under, and whether that key is at hand; `None` if the
    /// history does not tell.
    pub fn data_key(&self, seq: Seq) -> Option<(u16, bool)> {
        self.0.data_key_of(seq).map(|number| (number, self.0.has_data_key(number)))
    }

    /// Whether the history tells whose a checkpoint is.
    pub fn knows_checkpoint(&self, ckpt: CkptNo) -> bool {
        self.0.knows_checkpoint(ckpt)
    }

    /// Whether a row or history page has this check.
    pub fn is_home_page(&self, page: &Block, check: Check) -> bool {
        self.0.home_check(page) == check
    }

    /// A page or bitmap that lies at `at`, in plain text; `None` if it is not the one that has this check.
    pub fn page(&mut self, stored: &Block, at: Pba, ckpt: CkptNo, check: Check) -> Option<Block> {
        let mut page = *stored;
        open_page(&mut self.0, &mut page, at, ckpt, check).then_some(page)
    }

    /// Whether a block of a volume is the one that has this check.
    pub fn is_data(&mut self, stored: &Block, place: (VolumeId, Lba, Seq), check: Check) -> bool {
        let (volume, lba, seq) = place;
        is_stored(Some(&mut self.0), stored, Pba::ZERO, Form::Data(volume, lba, seq), check)
    }

    /// What opens the bodies of commits.
    pub fn commits(&mut self) -> &mut dyn Unseal {
        &mut self.0
    }
}

/// The lines of a history page, and what it says of the page before; `None` if it is none.
pub fn history_lines(page: &Block) -> Option<(Vec<Line>, cow::Ref)> {
    let mut lines = Vec::new();
    let previous = rlog::history::decode_page(page, &mut lines).ok()?;
    Some((lines, cow::Ref::decode(&previous[..32])))
}
