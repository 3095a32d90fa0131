//! The two byte streams of a connection, in memory of the ring.
//!
//! `Inbox` holds what was received and not yet understood. `Outbox` is a ring of bytes to send, with a promise:
//! room is reserved before work begins whose reply needs it, so a reply can always be appended and a client that
//! reads nothing holds up itself alone: it keeps no request slot, only its own outbox.
//!
//! A read of many pieces for a client without structured replies needs its data in one run. It is gathered in
//! the `large` region, one such read at a time, and sent from there when all that was appended before has left.
use crate::front::FrontIo;
use crate::memory::Region;
use base::SlotId;

/// Received bytes.
pub(super) struct Inbox {
    region: Region,
    start: usize,
    end: usize,
}

impl Inbox {
    pub fn new(region: Region) -> Self {
        Self { region, start: 0, end: 0 }
    }

    /// Bytes that wait.
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// The waiting bytes, at most `max`.
    pub fn peek(&self, max: usize) -> Region {
        self.region.part(self.start, self.len().min(max))
    }

    /// The first bytes, copied, if there are that many.
    pub fn array<const N: usize>(&self, io: &FrontIo<'_>) -> Option<[u8; N]> {
        (self.len() >= N).then(|| io.ring.area().bytes(self.peek(N)).try_into().expect("N bytes"))
    }

    pub fn consume(&mut self, bytes: usize) {
        assert!(bytes <= self.len(), "only what was received");
        // The positions stay: a receive that is under way writes behind `end`.
        self.start += bytes;
    }

    /// Forgets everything, for a new connection.
    pub fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    /// Where to receive into; empty when full. Moves what waits to the front when the end is reached, so no
    /// receive may be under way.
    pub fn space(&mut self, io: &mut FrontIo<'_>) -> Region {
        if self.start == self.end {
            self.clear();
        }
        if self.end == self.region.len() && self.start > 0 {
            let waiting = self.start..self.end;
            io.ring.area_mut().bytes_mut(self.region).copy_within(waiting, 0);
            (self.start, self.end) = (0, self.len());
        }
        self.region.part(self.end, self.region.len() - self.end)
    }

    pub fn received(&mut self, bytes: usize) {
        self.end += bytes;
        assert!(self.end <= self.region.len(), "received no more than there was space for");
    }
}

/// A large reply under way.
#[derive(Clone, Copy)]
struct Large {
    len: usize,
    sent: usize,
    /// Bytes of the ring that go before it; `None` while its data is gathered.
    after: Option<usize>,
}

/// Bytes to send.
pub(super) struct Outbox {
    ring: Region,
    large_region: Region,
    head: usize,
    used: usize,
    reserved: usize,
    large: Option<Large>,
    sending_large: bool,
}

impl Outbox {
    pub fn new(ring: Region, large_region: Region) -> Self {
        Self { ring, large_region, head: 0, used: 0, reserved: 0, large: None, sending_large: false }
    }

    /// Forgets everything, for a new connection.
    pub fn clear(&mut self, io: &mut FrontIo<'_>) {
        if self.large.is_some() {
            self.drop_large(io);
        }
        *self = Self::new(self.ring, self.large_region);
    }

    /// Takes room for a later reply of this size; false when there is none now.
    pub fn reserve(&mut self, bytes: usize) -> bool {
        let fits = self.used + self.reserved + bytes <= self.ring.len();
        if fits {
            self.reserved += bytes;
        }
        fits
    }

    /// Gives room back that was reserved and not needed.
    pub fn unreserve(&mut self, bytes: usize) {
        self.reserved = self.reserved.checked_sub(bytes).expect("what was reserved");
    }

    /// Takes the large region for a read of this size; false when it is taken.
    pub fn reserve_large(&mut self, len: usize) -> bool {
        let free = self.large.is_none() && len <= self.large_region.len();
        if free {
            self.large = Some(Large { len, sent: 0, after: None });
        }
        free
    }

    /// Gives the large region back unsent.
    pub fn drop_large(&mut self, io: &mut FrontIo<'_>) {
        let large = self.large.take().expect("a large reply");
        io.ring.area_mut().release(self.large_region.part(0, large.len));
    }

    /// The large data is complete and follows what has been appended so far.
    pub fn finish_large(&mut self) {
        let after = self.used;
        self.large.as_mut().expect("a large reply").after = Some(after);
    }

    /// Gathers a piece of the large reply.
    pub fn gather(&mut self, io: &mut FrontIo<'_>, at: usize, slot: SlotId, from: usize, len: usize) {
        io.copy_out(slot, from, self.large_region.part(at, len));
    }

    /// Appends bytes for which room was reserved.
    pub fn append(&mut self, io: &mut FrontIo<'_>, bytes: &[u8]) {
        let mut rest = bytes;
        for region in self.grow(bytes.len()).into_iter() {
            let (now, later) = rest.split_at(region.len());
            io.ring.area_mut().bytes_mut(region).copy_from_slice(now);
            rest = later;
        }
    }

    /// Appends a part of a slot's buffer, for which room was reserved.
    pub fn append_slot(&mut self, io: &mut FrontIo<'_>, slot: SlotId, from: usize, len: usize) {
        let mut at = from;
        for region in self.grow(len) {
            io.copy_out(slot, at, region);
            at += region.len();
        }
    }

    /// Bytes to send next; empty when there are none.
    pub fn next_to_send(&mut self) -> Region {
        let mut ready = self.used;
        self.sending_large = false;
        if let Some(Large { len, sent, after: Some(after) }) = self.large {
            if after == 0 {
                self.sending_large = true;
                return self.large_region.part(sent, len - sent);
            }
            ready = after;
        }
        self.ring.part(self.head, ready.min(self.ring.len() - self.head))
    }

    /// So many of the bytes of `next_to_send` have left.
    pub fn sent(&mut self, io: &mut FrontIo<'_>, bytes: usize) {
        if self.sending_large {
            let large = self.large.as_mut().expect("a large reply");
            large.sent += bytes;
            if large.sent == large.len {
                self.drop_large(io);
            }
            return;
        }
        self.used -= bytes;
        self.head = if self.used == 0 { 0 } else { (self.head + bytes) % self.ring.len() };
        if let Some(Large { after: Some(after), .. }) = &mut self.large {
            *after -= bytes;
        }
    }

    /// Whether everything appended has left.
    pub fn is_empty(&self) -> bool {
        self.used == 0 && self.large.is_none_or(|large| large.after.is_none())
    }

    /// Takes reserved room at the tail: one or two runs.
    fn grow(&mut self, len: usize) -> [Region; 2] {
        self.unreserve(len);
        let tail = (self.head + self.used) % self.ring.len();
        let first = len.min(self.ring.len() - tail);
        self.used += len;
        [self.ring.part(tail, first), self.ring.part(0, len - first)]
    }
}
