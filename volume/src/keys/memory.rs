//! The driver's memory, with the group's keys beside it: where blocks are sealed and opened.
//!
//! A plain group has no keys: a block's check is its XXH3, and its bytes stay as they are. In an encrypted group each block
//! is sealed in place just before its write is issued and opened in place when its read has ended, so plain text is only
//! where the guest or the engine looks at it. Which activation's keys a block has follows from its Ref: of data from its
//! Seq, of a page from the checkpoint that wrote it.
//!
//! Crash story: none of its own. That a (key, nonce) pair seals one text only rests on numbers that are never taken twice
//! within an activation, and is asserted by whoever counts them: Seqs by the log, checkpoints by the seal.
use super::{Class, GroupKeys, Sessions};
use base::{Aead, Block, BufId, Check, CkptNo, Lba, Memory, Nonce, Pba, Seq, Uuid, VolumeId};
use rlog::{Fields, History, Line, Unseal};

/// Keys of an encrypted group that is being opened or served.
pub(crate) struct Keys {
    sessions: Sessions,
    /// All lines that count, the newest last.
    history: History,
    group: Uuid,
    home: super::Key,
}

/// How a block that is stored got its check.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Form {
    /// A block of a volume.
    Data(VolumeId, Lba, Seq),
    /// A page of map, directory or free space.
    Page(CkptNo),
    /// A row or history page.
    Home,
    /// It is not secret, and the same in every group.
    Plain,
}

/// What is sealed beside a block of data: its volume and Lba.
fn about(volume: VolumeId, lba: Lba) -> [u8; 12] {
    let mut about = [0; 12];
    about[..4].copy_from_slice(&volume.get().to_le_bytes());
    about[4..].copy_from_slice(&lba.get().to_le_bytes());
    about
}

impl Keys {
    pub fn new(keys: GroupKeys, group: Uuid) -> Self {
        let home = keys.home_pages(group);
        Self { sessions: Sessions::new(keys, group), history: History::new(), group, home }
    }

    /// From now on blocks are those of this history.
    pub fn follow(&mut self, history: History) {
        self.history = history;
    }

    /// Whose key an activation that begins now has.
    pub fn newest_data_key(&self) -> Option<u16> {
        self.sessions.keys().newest()
    }

    /// All of them.
    pub fn group_keys(&self) -> &GroupKeys {
        self.sessions.keys()
    }

    /// Whether the data key of this number is at hand.
    pub fn has_data_key(&self, number: u16) -> bool {
        self.sessions.keys().data_key(number).is_some()
    }

    /// The number of the data key that a write with this Seq is under.
    pub fn data_key_of(&self, seq: Seq) -> Option<u16> {
        self.history.owner_of_seq(seq).map(|line| line.key)
    }

    /// Whether the history tells whose a checkpoint is.
    pub fn knows_checkpoint(&self, ckpt: CkptNo) -> bool {
        self.history.owner_of_ckpt(ckpt).is_some()
    }

    fn of_data(&mut self, seq: Seq) -> Option<&mut dyn Aead> {
        let line = *self.history.owner_of_seq(seq)?;
        self.sessions.cipher(Class::Data, &line)
    }

    fn of_page(&mut self, ckpt: CkptNo) -> Option<&mut dyn Aead> {
        let line = *self.history.owner_of_ckpt(ckpt)?;
        self.sessions.cipher(Class::Pages, &line)
    }

    /// The check of a row or history page: a code, for nothing that it says is secret.
    pub fn home_check(&self, page: &Block) -> Check {
        Check(super::mac(&self.home, &[page]))
    }

    fn is_stored(&mut self, block: &Block, at: Pba, form: Form, check: Check) -> bool {
        let mut copy = *block;
        let opened = match form {
            Form::Data(volume, lba, seq) => {
                let nonce = Nonce::data(seq, lba);
                self.of_data(seq).map(|cipher| open(cipher, &nonce, &about(volume, lba), &mut copy, check))
            }
            Form::Page(ckpt) => {
                self.of_page(ckpt).map(|cipher| open(cipher, &Nonce::page(ckpt, at), &[], &mut copy, check))
            }
            Form::Home => return super::mac_fits(&self.home, &[block], &check.0),
            Form::Plain => return Check::of(block) == check,
        };
        opened == Some(true)
    }

    /// The cipher for the bodies of this activation's commits.
    pub fn of_commits(&mut self, line: &Line) -> Option<&mut dyn Aead> {
        self.sessions.cipher(Class::Commits, line)
    }

    /// The code of a superblock that names this line, over these bytes.
    pub fn superblock_code(&self, line: Option<&Line>, bytes: &[u8]) -> [u8; 16] {
        super::mac(&self.superblock_key(line), &[bytes])
    }

    /// Whether a superblock has the code that it should have.
    pub fn superblock_fits(&self, line: Option<&Line>, bytes: &[u8], code: &[u8; 16]) -> bool {
        super::mac_fits(&self.superblock_key(line), &[bytes], code)
    }

    /// A group that was never activated has no line, and no salt.
    fn superblock_key(&self, line: Option<&Line>) -> super::Key {
        let none = Line::NONE;
        let line = line.unwrap_or(&none);
        self.sessions.keys().derive(Class::Superblock, self.group, line).expect("of the metadata key")
    }
}

impl Unseal for Keys {
    fn cipher(&mut self, fields: &Fields) -> Option<&mut dyn Aead> {
        let line = *self.history.owner_of_commit(fields.no)?;
        let its_own = (line.generation, line.id) == (fields.generation, fields.history);
        if its_own { self.of_commits(&line) } else { None }
    }

    fn seals(&self) -> bool {
        true
    }
}

/// Memory, and the keys for what is in it, if the group is encrypted.
pub(crate) struct Sealing<'a, M> {
    pub memory: &'a mut M,
    pub keys: Option<&'a mut Keys>,
}

/// Memory in which blocks of data can be sealed and opened, as pages can in all.
pub(crate) trait Keyed: Memory {
    /// The keys, if the group is encrypted.
    fn keys(&mut self) -> Option<&mut Keys>;
    /// Makes a block of data ready to be written under this Seq: its check.
    fn seal_data(&mut self, buf: BufId, volume: VolumeId, lba: Lba, seq: Seq) -> Check;
    /// Whether a block of data that was read is the one that has this check; in plain text from then on. Of another one the
    /// bytes are lost.
    fn open_data(&mut self, buf: BufId, volume: VolumeId, lba: Lba, seq: Seq, check: Check) -> bool;
    /// Whether a block that was read from `at` is the one that has this check. It stays as it is stored.
    fn is_stored(&mut self, buf: BufId, at: Pba, form: Form, check: Check) -> bool;
    /// The check of a row or history page.
    fn home_check(&mut self, page: &Block) -> Check {
        self.keys().map_or_else(|| Check::of(page), |keys| keys.home_check(page))
    }
}

impl<M: Memory> Keyed for Sealing<'_, M> {
    fn keys(&mut self) -> Option<&mut Keys> {
        self.keys.as_deref_mut()
    }

    fn seal_data(&mut self, buf: BufId, volume: VolumeId, lba: Lba, seq: Seq) -> Check {
        let block = self.memory.block_mut(buf);
        let Some(keys) = &mut self.keys else { return Check::of(block) };
        let cipher = keys.of_data(seq).expect("what is written has the keys of the activation");
        seal(cipher, &Nonce::data(seq, lba), &about(volume, lba), block)
    }

    fn open_data(&mut self, buf: BufId, volume: VolumeId, lba: Lba, seq: Seq, check: Check) -> bool {
        let block = self.memory.block_mut(buf);
        let Some(keys) = &mut self.keys else { return Check::of(block) == check };
        let Some(cipher) = keys.of_data(seq) else { return false };
        open(cipher, &Nonce::data(seq, lba), &about(volume, lba), block, check)
    }

    fn is_stored(&mut self, buf: BufId, at: Pba, form: Form, check: Check) -> bool {
        is_stored(self.keys.as_deref_mut(), self.memory.block(buf), at, form, check)
    }
}

/// As it is stored, for who has only bytes.
pub(crate) fn is_stored(keys: Option<&mut Keys>, block: &Block, at: Pba, form: Form, check: Check) -> bool {
    match keys {
        Some(keys) => keys.is_stored(block, at, form, check),
        None => Check::of(block) == check,
    }
}

pub(crate) fn open_page(keys: &mut Keys, block: &mut Block, at: Pba, ckpt: CkptNo, check: Check) -> bool {
    let Some(cipher) = keys.of_page(ckpt) else { return false };
    open(cipher, &Nonce::page(ckpt, at), &[], block, check)
}

fn seal(cipher: &mut dyn Aead, nonce: &Nonce, about: &[u8], block: &mut Block) -> Check {
    let tag = cipher.seal(nonce, about, block);
    Check::sealed(tag, block)
}

/// Damage is found by the CRC, for little; whatever passes it is still verified.
fn open(cipher: &mut dyn Aead, nonce: &Nonce, about: &[u8], block: &mut Block, check: Check) -> bool {
    check.crc_fits(block) && cipher.open(nonce, about, block, &check.tag())
}

impl<M: Memory> Memory for Sealing<'_, M> {
    fn blocks(&self, first: BufId, count: u32) -> &[u8] {
        self.memory.blocks(first, count)
    }
    fn blocks_mut(&mut self, first: BufId, count: u32) -> &mut [u8] {
        self.memory.blocks_mut(first, count)
    }
    fn copy_block(&mut self, from: BufId, to: BufId) {
        self.memory.copy_block(from, to);
    }

    fn seal_page(&mut self, buf: BufId, at: Pba, ckpt: CkptNo) -> Check {
        let block = self.memory.block_mut(buf);
        let Some(keys) = &mut self.keys else { return Check::of(block) };
        let cipher = keys.of_page(ckpt).expect("what is written has the keys of the activation");
        seal(cipher, &Nonce::page(ckpt, at), &[], block)
    }
    fn open_page(&mut self, buf: BufId, at: Pba, ckpt: CkptNo, check: Check) -> bool {
        let block = self.memory.block_mut(buf);
        match &mut self.keys {
            Some(keys) => open_page(keys, block, at, ckpt, check),
            None => Check::of(block) == check,
        }
    }
}
