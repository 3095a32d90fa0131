//! The request slots as the connections share them.
use base::SlotId;

/// What a slot in the engine is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Piece {
    /// Place of the connection.
    pub client: u16,
    /// Its request.
    pub request: u16,
    /// Where in the request the piece begins, in bytes.
    pub at: u64,
    /// Its length.
    pub bytes: u32,
    /// Where in the slot's buffer its data begins.
    pub buffer_offset: u32,
}

/// Free slots, and the pieces in the others.
pub(super) struct Slots {
    free: Vec<SlotId>,
    pieces: Vec<Option<Piece>>,
}

impl Slots {
    pub fn new(count: usize) -> Self {
        Self { free: (0..count as u16).rev().map(SlotId).collect(), pieces: vec![None; count] }
    }

    pub fn is_empty(&self) -> bool {
        self.free.is_empty()
    }

    /// Takes a free slot to fill.
    pub fn take(&mut self) -> SlotId {
        self.free.pop().expect("asked before")
    }

    /// Returns a slot that was taken and not used.
    pub fn put_back(&mut self, slot: SlotId) {
        assert!(self.pieces[slot.0 as usize].is_none(), "a slot in the engine is not free");
        self.free.push(slot);
    }

    /// Notes what a taken slot is for, as it goes to the engine.
    pub fn give(&mut self, slot: SlotId, piece: Piece) {
        let before = self.pieces[slot.0 as usize].replace(piece);
        assert!(before.is_none(), "a slot holds one piece");
    }

    /// The slot came back from the engine; it is free once its data was taken.
    pub fn returned(&mut self, slot: SlotId) -> Piece {
        self.pieces[slot.0 as usize].take().expect("only what was given comes back")
    }
}
