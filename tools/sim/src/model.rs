//! The reference model: what every block of the volume may hold.
//!
//! A block has a list of states, one for each write that touched it, in the order in which the writes were
//! issued: writes that overlap in a block are served in that order (design.md section 4), so state `n + 1` is
//! state `n` with the sectors of one more write. What may be read is a range of that list:
//! - `acked` is the oldest state that a read which starts now may return (C1);
//! - `durable` is the oldest state that may be found after a crash (C2);
//! - after a crash every state from `durable` on is possible, until a read tells; the states that the read rules
//!   out are void from then on and must never come back (C4).
//!
//! Not modelled: the order between different blocks (see `checks::prefix`).
use crate::stamp::{Seen, WriteId};
use base::{BLOCK_BYTES, SECTOR_BYTES, SECTORS_PER_BLOCK};

/// Sectors in a block.
pub const PER_BLOCK: usize = SECTORS_PER_BLOCK as usize;

// Masks of sectors are bytes.
const _: () = assert!(PER_BLOCK == u8::BITS as usize);

/// Why a state can never be seen again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Void {
    /// The write was refused.
    Refused,
    /// A read after a crash showed that it had not survived, or had been overwritten.
    Lost,
}

/// The block after one more write.
#[derive(Clone, Copy, Debug)]
pub struct State {
    /// The write; 0 for the first state of all.
    pub write: WriteId,
    /// The sectors that it wrote.
    pub mask: u8,
    /// Whether it wrote zeroes.
    pub zero: bool,
    /// All sectors, by the write that they came from; 0 is zeroes.
    pub content: [WriteId; PER_BLOCK],
    /// Set once it must not be seen any more.
    pub void: Option<Void>,
}

/// A block's states and bounds.
#[derive(Clone, Debug)]
pub struct History {
    /// In order of issue.
    pub states: Vec<State>,
    /// Oldest state that a read starting now may return.
    pub acked: u32,
    /// Oldest state that may be found after a crash.
    pub durable: u32,
    /// States that existed at the last crash; 0 before the first.
    pub before_crash: u32,
    /// Whether several different contents are possible since the last crash.
    pub unsettled: bool,
    /// States up to the last one that was issued when a write failed (not when one was refused). The failed write
    /// may show or not, now or after a crash, and those behind it were built on either: until a write of the
    /// whole block that was issued later is acknowledged, any sector that was ever written here is right.
    pub doubt: u32,
}

/// How a write ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// Not yet.
    Pending,
    /// Acknowledged, at this step.
    Acked(u64),
    /// Failed without any effect.
    Refused,
    /// Failed or cut off by a crash; it may have had its effect.
    Unknown,
}

/// A write, discard or write-zeroes of the run.
#[derive(Clone, Debug)]
pub struct Write {
    /// First sector.
    pub sector: u64,
    /// Length.
    pub sectors: u64,
    /// Whether it stores zeroes.
    pub zero: bool,
    /// The step at which it was issued.
    pub issued: u64,
    /// How it ended.
    pub fate: Fate,
    /// First of its states, in each block that it touches.
    pub states: Vec<u32>,
}

impl Write {
    /// The blocks that it touches.
    pub fn blocks(&self) -> std::ops::Range<u64> {
        self.sector / SECTORS_PER_BLOCK..(self.sector + self.sectors).div_ceil(SECTORS_PER_BLOCK)
    }
}

/// What a read found in one block, and how it fits the history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// A state that may be returned.
    Allowed(u32),
    /// An older state than any that may be returned.
    Older(u32),
    /// A state that must not be seen any more.
    Voided(u32),
    /// Sectors that were all written here, but never stood side by side.
    Torn,
    /// Noise, or a sector written for another place.
    Foreign,
}

/// A look at one block.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// Which sectors were read.
    pub mask: u8,
    /// What they hold; zero elsewhere.
    pub sectors: [Seen; PER_BLOCK],
}

impl Look {
    /// Takes what lies in a block's bytes at these sectors.
    pub fn at(block: u64, bytes: &[u8], mask: u8, seed: u64) -> Self {
        assert!(bytes.len() == BLOCK_BYTES);
        let mut sectors = [Seen::Zero; PER_BLOCK];
        for (i, seen) in sectors.iter_mut().enumerate() {
            if mask & (1 << i) != 0 {
                *seen = crate::stamp::see(&bytes[i * SECTOR_BYTES..][..SECTOR_BYTES], seed);
                let home = block * SECTORS_PER_BLOCK + i as u64;
                if matches!(seen, Seen::Stamp { sector, .. } if *sector != home) {
                    *seen = Seen::Noise;
                }
            }
        }
        Self { mask, sectors }
    }

    fn shows(&self, content: &[WriteId; PER_BLOCK]) -> bool {
        (0..PER_BLOCK).all(|i| {
            self.mask & (1 << i) == 0
                || match self.sectors[i] {
                    Seen::Zero => content[i] == 0,
                    Seen::Stamp { write, .. } => content[i] == write,
                    Seen::Noise => false,
                }
        })
    }
}

impl History {
    fn new() -> Self {
        let first = State { write: 0, mask: 0xff, zero: true, content: [0; PER_BLOCK], void: None };
        Self { states: vec![first], acked: 0, durable: 0, before_crash: 0, unsettled: false, doubt: 0 }
    }

    /// Whether a write that leaves some sectors alone would have more than one possible outcome.
    pub fn is_unsettled(&self) -> bool {
        (self.unsettled && self.acked < self.before_crash) || self.acked < self.doubt
    }

    fn last_content(&self) -> [WriteId; PER_BLOCK] {
        self.states.iter().rev().find(|s| s.void.is_none()).expect("the first state stays").content
    }

    fn push(&mut self, write: WriteId, mask: u8, zero: bool) -> u32 {
        assert!(mask == 0xff || !self.is_unsettled(), "a partial write needs a settled block");
        let mut state = State { write, mask, zero, content: self.last_content(), void: None };
        state.apply();
        self.states.push(state);
        self.states.len() as u32 - 1
    }

    /// Takes a refused write out of the states that follow it.
    fn refuse(&mut self, index: u32) {
        self.states[index as usize].void = Some(Void::Refused);
        for i in index as usize + 1..self.states.len() {
            if self.states[i].void.is_none() {
                let before = self.states[..i].iter().rev().find(|s| s.void.is_none());
                self.states[i].content = before.expect("the first state stays").content;
                self.states[i].apply();
            }
        }
    }

    /// How what was found fits, for a read that started when `floor` was acknowledged.
    pub fn find(&self, look: &Look, floor: u32) -> Found {
        let mut seen = look.sectors.iter().enumerate().filter(|(i, _)| look.mask & (1 << i) != 0);
        if seen.any(|(_, seen)| *seen == Seen::Noise) {
            return Found::Foreign;
        }
        let live = |i: &usize| self.states[*i].void.is_none() && look.shows(&self.states[*i].content);
        if let Some(i) = (floor as usize..self.states.len()).find(live) {
            return Found::Allowed(i as u32);
        }
        if floor < self.doubt && self.all_known(look) {
            return Found::Allowed(floor);
        }
        if let Some(i) = (0..floor as usize).rev().find(live) {
            return Found::Older(i as u32);
        }
        if let Some(i) = (0..self.states.len()).rev().find(|i| look.shows(&self.states[*i].content)) {
            return Found::Voided(i as u32);
        }
        if self.all_known(look) { Found::Torn } else { Found::Foreign }
    }

    /// Whether every sector was written here at some time.
    fn all_known(&self, look: &Look) -> bool {
        let known = |i: usize, write: WriteId| self.states.iter().any(|s| s.content[i] == write);
        look.sectors.iter().enumerate().filter(|(i, _)| look.mask & (1 << i) != 0).all(|(i, seen)| match seen
        {
            Seen::Zero => known(i, 0),
            Seen::Stamp { write, .. } => known(i, *write),
            Seen::Noise => false,
        })
    }

    /// Learns from a look that was allowed: what it rules out is lost for ever. One that began while nobody knew what
    /// a failed write had done teaches nothing, even if a later write has been acknowledged since.
    fn learn(&mut self, look: &Look, index: u32, floor: u32) {
        if floor.min(self.acked) < self.doubt || !look.shows(&self.states[index as usize].content) {
            return;
        }
        self.acked = self.acked.max(index);
        // What came back does not matter any more once a later write is durable.
        self.unsettled &= self.durable < self.before_crash;
        // Zeroes may be those of a later write.
        let later = self.states[self.before_crash as usize..].iter();
        let by_later = later.filter(|s| s.void.is_none()).any(|s| look.shows(&s.content));
        if !self.unsettled || index >= self.before_crash || by_later {
            return;
        }
        let mut first: Option<usize> = None;
        let mut different = false;
        for i in self.durable as usize..self.before_crash as usize {
            if self.states[i].void.is_some() {
                continue;
            }
            if !look.shows(&self.states[i].content) {
                self.states[i].void = Some(Void::Lost);
            } else if let Some(first) = first {
                different |= self.states[first].content != self.states[i].content;
            } else {
                first = Some(i);
            }
        }
        let first = first.expect("the state that was found remains");
        self.durable = self.durable.max(first as u32);
        self.acked = self.acked.max(first as u32);
        if !different {
            self.unsettled = false;
            for state in &mut self.states[first + 1..self.before_crash as usize] {
                state.void = state.void.or(Some(Void::Lost));
            }
        }
    }

    fn crash(&mut self) {
        self.before_crash = self.states.len() as u32;
        self.acked = self.durable;
        let mut possible = self.states[self.durable as usize..].iter().filter(|s| s.void.is_none());
        let first = possible.next().expect("the durable state is possible").content;
        self.unsettled = possible.any(|s| s.content != first);
    }
}

impl State {
    fn apply(&mut self) {
        for i in 0..PER_BLOCK {
            if self.mask & (1 << i) != 0 {
                self.content[i] = if self.zero { 0 } else { self.write };
            }
        }
    }
}

/// The model of a volume.
#[derive(Clone)]
pub struct Model {
    /// Mixed into every stamp.
    pub seed: u64,
    /// One history per block.
    pub blocks: Vec<History>,
    /// All writes, by number; the first is a placeholder.
    pub writes: Vec<Write>,
    /// Acknowledged writes in the order of their acknowledgement; from `durable_to` on not known to be durable.
    pub acks: Vec<WriteId>,
    /// How many of `acks` a flush has covered or a crash has ended.
    pub durable_to: usize,
    /// The part of `acks` that no flush had covered at the last crash.
    pub cut: std::ops::Range<usize>,
}

/// The sectors of a block that a range covers.
pub fn mask_of(block: u64, sector: u64, sectors: u64) -> u8 {
    let start = block * SECTORS_PER_BLOCK;
    (0..SECTORS_PER_BLOCK)
        .filter(|i| (sector..sector + sectors).contains(&(start + i)))
        .fold(0, |mask, i| mask | 1 << i)
}

impl Model {
    /// A volume of zeroes.
    pub fn new(seed: u64, blocks: u64) -> Self {
        let placeholder =
            Write { sector: 0, sectors: 0, zero: true, issued: 0, fate: Fate::Refused, states: Vec::new() };
        Self {
            seed,
            blocks: vec![History::new(); blocks as usize],
            writes: vec![placeholder],
            acks: Vec::new(),
            durable_to: 0,
            cut: 0..0,
        }
    }

    /// Whether a write of this range would leave a block with more than one possible outcome.
    pub fn needs_a_read(&self, sector: u64, sectors: u64) -> bool {
        let blocks = sector / SECTORS_PER_BLOCK..(sector + sectors).div_ceil(SECTORS_PER_BLOCK);
        let mut edges = [blocks.start, blocks.end - 1].into_iter();
        edges.any(|b| mask_of(b, sector, sectors) != 0xff && self.blocks[b as usize].is_unsettled())
    }

    /// A write is issued.
    pub fn issue(&mut self, sector: u64, sectors: u64, zero: bool, step: u64) -> WriteId {
        let id = self.writes.len() as WriteId;
        let mut write =
            Write { sector, sectors, zero, issued: step, fate: Fate::Pending, states: Vec::new() };
        for block in write.blocks() {
            let index = self.blocks[block as usize].push(id, mask_of(block, sector, sectors), zero);
            write.states.push(index);
        }
        self.writes.push(write);
        id
    }

    /// A write is acknowledged.
    pub fn acked(&mut self, id: WriteId, step: u64) {
        let write = &mut self.writes[id as usize];
        assert_eq!(write.fate, Fate::Pending, "write {id} ends once");
        write.fate = Fate::Acked(step);
        for (block, index) in write.blocks().zip(&write.states) {
            let history = &mut self.blocks[block as usize];
            history.acked = history.acked.max(*index);
        }
        self.acks.push(id);
    }

    /// An acknowledged write survives from now on, whatever becomes of those before it.
    pub fn durable(&mut self, id: WriteId) {
        let write = &self.writes[id as usize];
        for (block, index) in write.blocks().zip(&write.states) {
            let history = &mut self.blocks[block as usize];
            history.durable = history.durable.max(*index);
        }
    }

    /// A write was refused without any effect.
    pub fn refused(&mut self, id: WriteId) {
        let write = &mut self.writes[id as usize];
        assert_eq!(write.fate, Fate::Pending, "write {id} ends once");
        write.fate = Fate::Refused;
        for (block, index) in write.blocks().zip(&write.states) {
            self.blocks[block as usize].refuse(*index);
        }
    }

    /// A write failed and may have had its effect, now or after a crash.
    pub fn failed(&mut self, id: WriteId) {
        let write = &mut self.writes[id as usize];
        assert_eq!(write.fate, Fate::Pending, "write {id} ends once");
        write.fate = Fate::Unknown;
        for block in write.blocks() {
            let history = &mut self.blocks[block as usize];
            history.doubt = history.states.len() as u32;
        }
    }

    /// A flush is acknowledged that was submitted when this many writes had been acknowledged.
    pub fn flushed(&mut self, acks: usize) {
        while self.durable_to < acks {
            let write = &self.writes[self.acks[self.durable_to] as usize];
            for (block, index) in write.blocks().zip(&write.states) {
                let history = &mut self.blocks[block as usize];
                history.durable = history.durable.max(*index);
            }
            self.durable_to += 1;
        }
    }

    /// Everything in flight is cut off.
    pub fn crash(&mut self) {
        for write in &mut self.writes {
            if write.fate == Fate::Pending {
                write.fate = Fate::Unknown;
            }
        }
        self.cut = self.durable_to..self.acks.len();
        self.durable_to = self.acks.len();
        self.blocks.iter_mut().for_each(History::crash);
    }

    /// Less was durable at the last crash than was taken, no more than `less` says. Where that makes a difference nobody
    /// knows what a block holds, until all of it is written again.
    pub fn doubt_beyond(&mut self, less: &Self) {
        for (history, less) in self.blocks.iter_mut().zip(&less.blocks) {
            if less.durable < history.durable {
                (history.durable, history.acked) = (less.durable, less.durable);
                history.doubt = history.states.len() as u32;
            }
        }
        self.cut.start = self.cut.start.min(less.durable_to);
    }

    /// No more was durable than these states. Where that makes a difference, or where what has been ruled out since
    /// may be back, nobody knows what a block holds, until all of it is written again.
    pub fn take_back(&mut self, less: &[u32]) {
        for (history, less) in self.blocks.iter_mut().zip(less) {
            let ruled_out = history.states[*less as usize..].iter().any(|s| s.void == Some(Void::Lost));
            if *less < history.durable || ruled_out {
                history.durable = history.durable.min(*less);
                history.acked = history.acked.min(*less);
                history.doubt = history.states.len() as u32;
            }
        }
    }

    /// The volume goes on from what a copy had that fell behind when `before` was all that there was: what a crash at
    /// that moment would have left. One that was brought up to date since (`returns`) may have what is newer. What was
    /// refused since then was never anywhere.
    pub fn fork(&mut self, before: &Self, returns: bool) {
        for (history, before) in self.blocks.iter_mut().zip(&before.blocks) {
            let known = before.states.len();
            let refused = |i: &usize| {
                history.states[*i].void == Some(Void::Refused) && before.states[*i].void.is_none()
            };
            let refused: Vec<usize> = (0..known).filter(refused).collect();
            history.states[..known].copy_from_slice(&before.states);
            for state in &mut history.states[known..] {
                state.void = if returns { None } else { Some(Void::Lost) };
            }
            (history.acked, history.durable) = (before.acked, before.durable);
            (history.unsettled, history.doubt) = (before.unsettled, before.doubt);
            refused.into_iter().for_each(|i| history.refuse(i as u32));
        }
        (self.acks, self.durable_to) = (before.acks.clone(), before.durable_to);
        self.crash();
    }

    /// A read returned this for a block.
    pub fn learn(&mut self, block: u64, look: &Look, index: u32, floor: u32) {
        self.blocks[block as usize].learn(look, index, floor);
    }
}

#[cfg(test)]
mod tests;
