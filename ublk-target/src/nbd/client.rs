//! One connection: its streams, its stage, and the requests that it has under way.
//!
//! A request is *current* while its pieces are handed to the engine, one at a time and in order; then it is under
//! way until its last piece returns, and the next request becomes current. Whatever is missing (bytes from the
//! client, a slot, room in the outbox), `advance` stops there and is called again when that may have changed.
//!
//! Invariants: a reply is appended only into reserved room; a request is answered once, after all its pieces; a
//! place is free again only when the kernel has no operation on its memory and the engine no piece of it.
use super::handshake::{self, Step};
use super::slots::{Piece, Slots};
use super::stream::{Inbox, Outbox};
use super::wire::{self, RequestHeader, chunk, command, error};
use super::{LARGEST_REQUEST_BYTES, REQUESTS_PER_CLIENT};
use crate::front::{Extent, FrontIo, sector_bytes};
use base::limits::MAX_REQUEST_BLOCKS;
use base::{BLOCK_BYTES, Fault, Instant, Op, Request, SECTOR_BYTES, Sector, Sectors, SlotId};
use std::os::fd::OwnedFd;

/// Room for the last message of any reply.
const LAST_ROOM: usize = 32;
/// Extents that one block status reply tells at most.
const MAX_EXTENTS: usize = 128;
const STATUS_ROOM: usize = wire::CHUNK_BYTES + 4 + 8 * MAX_EXTENTS;
/// A piece of a read or write ends on a block of the volume and touches at most so many bytes of them.
const PIECE_BYTES: u64 = MAX_REQUEST_BLOCKS as u64 * BLOCK_BYTES as u64;

const _: () = assert!(LAST_ROOM >= wire::CHUNK_BYTES + 6 && LAST_ROOM >= wire::SIMPLE_REPLY_BYTES);

/// Where a connection stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// Greeted; the client's flags are due.
    Flags,
    /// Options are exchanged.
    Options,
    /// Requests are served.
    Transmission,
    /// Nothing more is understood; what is under way is answered, then the end.
    Draining,
    /// Cut off; the kernel and the engine still have to let go.
    Dead,
}

/// A request under way.
#[derive(Clone, Copy)]
struct Pending {
    header: RequestHeader,
    op: Op,
    /// Bytes handed to the engine (or skipped) so far.
    issued: u64,
    /// Pieces in the engine.
    pieces: u32,
    /// The first error, 0 without.
    error: u32,
    /// Its data is gathered in the large region.
    large: bool,
}

/// A connection's place; the memory stays when the connection goes.
pub(super) struct Client {
    pub place: usize,
    socket: Option<OwnedFd>,
    pub stage: Stage,
    pub no_zeroes: bool,
    pub structured: bool,
    pub block_status: bool,
    pub inbox: Inbox,
    pub outbox: Outbox,
    requests: Vec<Option<Pending>>,
    free: Vec<u16>,
    current: Option<u16>,
    /// A write's piece that waits for bytes, and how many it has.
    open: Option<(SlotId, usize)>,
    receiving: bool,
    sending: bool,
    /// Whether it stopped for want of a slot.
    pub wants_slot: bool,
    /// The handshake, or the last replies, must be through by then.
    pub deadline: Option<Instant>,
}

/// What an operation of a connection on the ring was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Io {
    Receive,
    Send,
}

impl Client {
    pub fn new(place: usize, inbox: Inbox, outbox: Outbox) -> Self {
        Self {
            place,
            socket: None,
            stage: Stage::Dead,
            no_zeroes: false,
            structured: false,
            block_status: false,
            inbox,
            outbox,
            requests: vec![None; REQUESTS_PER_CLIENT],
            free: (0..REQUESTS_PER_CLIENT as u16).rev().collect(),
            current: None,
            open: None,
            receiving: false,
            sending: false,
            wants_slot: false,
            deadline: None,
        }
    }

    pub fn is_free(&self) -> bool {
        self.socket.is_none()
    }

    /// Takes a new connection and greets it.
    pub fn open(&mut self, io: &mut FrontIo<'_>, socket: OwnedFd, deadline: Instant) {
        assert!(self.is_free() && self.idle(), "a place is taken once");
        self.inbox.clear();
        self.outbox.clear(io);
        (self.no_zeroes, self.structured, self.block_status) = (false, false, false);
        self.socket = Some(socket);
        self.stage = Stage::Flags;
        self.deadline = Some(deadline);
        handshake::greet(self, io);
    }

    /// Whether no request is under way.
    pub fn idle(&self) -> bool {
        self.free.len() == REQUESTS_PER_CLIENT
    }

    /// Says something during the handshake, where `REPLY_ROOM` was seen to be there.
    pub fn say(&mut self, io: &mut FrontIo<'_>, bytes: &[u8]) {
        assert!(self.outbox.reserve(bytes.len()), "there was room");
        self.outbox.append(io, bytes);
    }

    /// Does all that can be done now, then arms what is needed on the ring.
    pub fn advance(&mut self, io: &mut FrontIo<'_>, slots: &mut Slots) -> std::io::Result<()> {
        self.wants_slot = false;
        loop {
            let step = match self.stage {
                Stage::Flags => handshake::client_flags(self, io),
                Stage::Options => handshake::one_option(self, io),
                Stage::Transmission if self.current.is_some() => self.issue(io, slots),
                Stage::Transmission => self.next_request(io),
                Stage::Draining | Stage::Dead => break,
            };
            match step {
                Step::Went => (),
                Step::Waits => break,
                Step::Ends => self.drain(io, slots),
            }
            if self.stage == Stage::Transmission {
                self.deadline = None;
            }
        }
        self.arm(io)
    }

    /// No more is taken from this client; what is under way is still answered.
    pub fn drain(&mut self, io: &mut FrontIo<'_>, slots: &mut Slots) {
        if matches!(self.stage, Stage::Draining | Stage::Dead) {
            return;
        }
        self.stage = Stage::Draining;
        self.deadline = Some(io.now + super::HANDSHAKE_TIME);
        self.abandon_current(io, slots);
    }

    /// Cuts the connection: nothing is sent any more.
    pub fn cut(&mut self, io: &mut FrontIo<'_>, slots: &mut Slots) {
        self.abandon_current(io, slots);
        self.stage = Stage::Dead;
        self.deadline = None;
        if let Some(socket) = &self.socket {
            // Ends the operations that the kernel has on it.
            let _ = nix::sys::socket::shutdown(
                std::os::fd::AsRawFd::as_raw_fd(socket),
                nix::sys::socket::Shutdown::Both,
            );
        }
    }

    /// Frees the place if nothing holds it any more, after cutting a drained connection.
    pub fn reap(&mut self, io: &mut FrontIo<'_>, slots: &mut Slots) {
        if self.stage == Stage::Draining && self.idle() && self.outbox.is_empty() && !self.sending {
            self.cut(io, slots);
        }
        if self.stage == Stage::Dead && self.idle() && !self.receiving && !self.sending {
            self.socket = None;
        }
    }

    /// An operation on the ring ended.
    pub fn event(&mut self, io: &mut FrontIo<'_>, slots: &mut Slots, what: Io, result: i32) {
        match what {
            Io::Receive => self.receiving = false,
            Io::Send => self.sending = false,
        }
        let bytes = usize::try_from(result).unwrap_or(0);
        match what {
            _ if self.stage == Stage::Dead => (),
            _ if matches!(-result, libc::EINTR | libc::EAGAIN) => (),
            Io::Receive if bytes > 0 => self.inbox.received(bytes),
            // The client hung up, perhaps only its sending side: it may still want its replies.
            Io::Receive => self.drain(io, slots),
            Io::Send if bytes > 0 => self.outbox.sent(io, bytes),
            Io::Send => self.cut(io, slots),
        }
    }

    /// A piece of one of its requests came back.
    pub fn piece_done(
        &mut self,
        io: &mut FrontIo<'_>,
        slot: SlotId,
        piece: Piece,
        result: Result<(), Fault>,
    ) {
        let mut pending = self.requests[piece.request as usize].expect("a request with a piece");
        pending.pieces -= 1;
        if let Err(fault) = result
            && pending.error == 0
        {
            pending.error = wire::error_of(fault);
        }
        let all_issued =
            pending.issued == u64::from(pending.header.len) && self.current != Some(piece.request);
        let last = pending.pieces == 0 && all_issued;
        let mut answered = false;
        if pending.op == Op::Read && self.stage != Stage::Dead {
            answered = self.read_done(io, slot, piece, &pending, result.is_ok(), last);
        }
        self.requests[piece.request as usize] = Some(pending);
        if last {
            self.finish(io, piece.request, answered);
        }
    }

    /// Takes the data of a read's piece; says whether that was the whole answer.
    fn read_done(
        &mut self,
        io: &mut FrontIo<'_>,
        slot: SlotId,
        piece: Piece,
        pending: &Pending,
        ok: bool,
        last: bool,
    ) -> bool {
        let (len, from) = (piece.bytes as usize, piece.buffer_offset as usize);
        let cookie = pending.header.cookie;
        if pending.large {
            self.outbox.gather(io, piece.at as usize, slot, from, len);
            return false;
        }
        if self.structured {
            if !ok {
                self.outbox.unreserve(wire::DATA_CHUNK_BYTES + len);
                return false;
            }
            let done = last && pending.error == 0;
            let flags = if done { chunk::DONE } else { 0 };
            let header = wire::chunk_header(flags, chunk::OFFSET_DATA, cookie, 8 + len as u32);
            self.outbox.append(io, &header);
            self.outbox.append(io, &(pending.header.offset + piece.at).to_be_bytes());
            self.outbox.append_slot(io, slot, from, len);
            return done;
        }
        if !ok {
            self.outbox.unreserve(wire::SIMPLE_REPLY_BYTES + len);
            return false;
        }
        self.outbox.append(io, &wire::simple_reply(0, cookie));
        self.outbox.append_slot(io, slot, from, len);
        true
    }

    /// Answers a request whose pieces are all back, unless its data was the answer, and forgets it.
    fn finish(&mut self, io: &mut FrontIo<'_>, request: u16, answered: bool) {
        let pending = self.requests[request as usize].take().expect("a request");
        self.free.push(request);
        let (cookie, failure) = (pending.header.cookie, pending.error);
        let mut left = LAST_ROOM;
        if self.stage == Stage::Dead || answered {
        } else if pending.large && failure == 0 {
            self.outbox.append(io, &wire::simple_reply(0, cookie));
            self.outbox.finish_large();
            left -= wire::SIMPLE_REPLY_BYTES;
        } else if self.structured && pending.op == Op::Read {
            if failure == 0 {
                self.outbox.append(io, &wire::chunk_header(chunk::DONE, chunk::NONE, cookie, 0));
                left -= wire::CHUNK_BYTES;
            } else {
                let message = wire::error_chunk(failure, cookie);
                self.outbox.append(io, &message);
                left -= message.len();
            }
        } else {
            self.outbox.append(io, &wire::simple_reply(failure, cookie));
            left -= wire::SIMPLE_REPLY_BYTES;
        }
        if pending.large && (failure != 0 || self.stage == Stage::Dead) {
            self.outbox.drop_large(io);
        }
        self.outbox.unreserve(left);
    }

    /// Makes the next request in the inbox the current one.
    fn next_request(&mut self, io: &mut FrontIo<'_>) -> Step {
        let Some(bytes) = self.inbox.array::<{ RequestHeader::BYTES }>(io) else { return Step::Waits };
        let Some(header) = RequestHeader::parse(&bytes) else { return Step::Ends };
        if header.command == command::DISCONNECT {
            return Step::Ends;
        }
        if header.command == command::WRITE && header.len > LARGEST_REQUEST_BYTES {
            // More than was announced: its payload would have to be swallowed.
            return Step::Ends;
        }
        if self.free.is_empty() {
            return Step::Waits;
        }
        let (op, failure) = match self.check(io, &header) {
            Ok(op) => (op, 0),
            // Answered in the form that the command has: with structured replies, a chunk for these two.
            Err(failure) if matches!(header.command, command::READ | command::BLOCK_STATUS) => {
                (Op::Read, failure)
            }
            Err(failure) => (Op::Write, failure),
        };
        if header.command == command::BLOCK_STATUS && failure == 0 {
            return self.block_status(io, &header);
        }
        let first = header.offset % BLOCK_BYTES as u64;
        let many = first + u64::from(header.len) > PIECE_BYTES;
        let large = failure == 0 && op == Op::Read && !self.structured && many;
        if !self.outbox.reserve(LAST_ROOM) {
            return Step::Waits;
        }
        if large && !self.outbox.reserve_large(header.len as usize) {
            self.outbox.unreserve(LAST_ROOM);
            return Step::Waits;
        }
        self.inbox.consume(RequestHeader::BYTES);
        let request = self.free.pop().expect("seen just now");
        // Of what is refused, only a write has something left to go through: its payload.
        let issued = if failure != 0 && header.command != command::WRITE { u64::from(header.len) } else { 0 };
        self.requests[request as usize] =
            Some(Pending { header, op, issued, pieces: 0, error: failure, large });
        self.current = Some(request);
        Step::Went
    }

    /// What a request asks for, or the error that it gets.
    fn check(&self, io: &FrontIo<'_>, header: &RequestHeader) -> Result<Op, u32> {
        let sector = SECTOR_BYTES as u64;
        let (op, allowed) = match header.command {
            command::READ => (Op::Read, 0),
            command::WRITE => (Op::Write, command::FLAG_FUA),
            command::FLUSH => (Op::Flush, command::FLAG_FUA),
            command::TRIM => (Op::Discard, command::FLAG_FUA),
            // Zeroes are always a hole here, and so always fast; a client that wants no hole gets the same
            // zeroes, and the same answer if the space runs out when it writes there.
            command::WRITE_ZEROES => {
                (Op::WriteZeroes, command::FLAG_FUA | command::FLAG_NO_HOLE | command::FLAG_FAST_ZERO)
            }
            command::BLOCK_STATUS if self.block_status => (Op::Read, command::FLAG_REQ_ONE),
            command::BLOCK_STATUS => return Err(error::INVALID),
            _ => return Err(error::NOT_SUPPORTED),
        };
        if header.flags & !allowed != 0 {
            return Err(error::INVALID);
        }
        if op == Op::Flush {
            return if header.len == 0 && header.offset == 0 { Ok(op) } else { Err(error::INVALID) };
        }
        let changes = !matches!(op, Op::Read);
        if changes && io.volume.read_only {
            return Err(error::PERM);
        }
        let len = u64::from(header.len);
        if !header.offset.is_multiple_of(sector) || !len.is_multiple_of(sector) {
            return Err(error::INVALID);
        }
        let size = io.volume.sectors.get() * sector;
        if header.offset.checked_add(len).is_none_or(|end| end > size) {
            return Err(if changes { error::NO_SPACE } else { error::INVALID });
        }
        let moves = matches!(header.command, command::READ | command::WRITE);
        if (moves && header.len > LARGEST_REQUEST_BYTES)
            || (header.command == command::BLOCK_STATUS && len == 0)
        {
            return Err(error::INVALID);
        }
        Ok(op)
    }

    /// Hands pieces of the current request to the engine.
    fn issue(&mut self, io: &mut FrontIo<'_>, slots: &mut Slots) -> Step {
        let request = self.current.expect("a current request");
        let pending = self.requests[request as usize].expect("a request");
        let whole = u64::from(pending.header.len);
        let flushes = pending.op == Op::Flush && pending.error == 0 && pending.pieces == 0;
        if pending.issued < whole || flushes {
            if pending.op == Op::Write && pending.error != 0 {
                return self.skip(slots, request);
            }
            if pending.op == Op::Write && self.inbox.len() == 0 {
                return Step::Waits;
            }
            return self.one_piece(io, slots, request);
        }
        self.current = None;
        if pending.pieces == 0 {
            self.finish(io, request, false);
        }
        Step::Went
    }

    /// Goes over the payload of a write that has failed already.
    fn skip(&mut self, slots: &mut Slots, request: u16) -> Step {
        let pending = self.requests[request as usize].as_mut().expect("a request");
        if let Some((slot, filled)) = self.open.take() {
            slots.put_back(slot);
            pending.issued += filled as u64;
        }
        let left = u64::from(pending.header.len) - pending.issued;
        let now = left.min(self.inbox.len() as u64);
        pending.issued += now;
        self.inbox.consume(now as usize);
        if now == 0 { Step::Waits } else { Step::Went }
    }

    fn one_piece(&mut self, io: &mut FrontIo<'_>, slots: &mut Slots, request: u16) -> Step {
        let pending = self.requests[request as usize].expect("a request");
        let at = pending.header.offset + pending.issued;
        let within = at % BLOCK_BYTES as u64;
        let longest = match pending.op {
            Op::Read | Op::Write => PIECE_BYTES,
            _ => sector_bytes(io.volume.max_discard) as u64 / BLOCK_BYTES as u64 * BLOCK_BYTES as u64,
        };
        let len = (u64::from(pending.header.len) - pending.issued).min(longest - within);
        let room = match (pending.op, self.structured) {
            (Op::Read, _) if pending.large => 0,
            (Op::Read, true) => wire::DATA_CHUNK_BYTES + len as usize,
            (Op::Read, false) => wire::SIMPLE_REPLY_BYTES + len as usize,
            _ => 0,
        };
        if self.open.is_none() {
            if slots.is_empty() {
                self.wants_slot = true;
                return Step::Waits;
            }
            if !self.outbox.reserve(room) {
                return Step::Waits;
            }
            self.open = Some((slots.take(), 0));
        }
        let (slot, filled) = self.open.expect("opened just now");
        if pending.op == Op::Write {
            let bytes = self.inbox.peek(len as usize - filled);
            io.copy_in(slot, within as usize + filled, bytes);
            self.inbox.consume(bytes.len());
            let filled = filled + bytes.len();
            if filled < len as usize {
                self.open = Some((slot, filled));
                return Step::Waits;
            }
        }
        self.open = None;
        let piece = Piece {
            client: self.place as u16,
            request,
            at: pending.issued,
            bytes: len as u32,
            buffer_offset: within as u32,
        };
        slots.give(slot, piece);
        let pending = self.requests[request as usize].as_mut().expect("a request");
        pending.issued += len;
        pending.pieces += 1;
        let flush = pending.op == Op::Flush;
        io.submit(Request {
            slot,
            op: pending.op,
            sector: Sector::new(if flush { 0 } else { at / SECTOR_BYTES as u64 }),
            sectors: Sectors::new(len / SECTOR_BYTES as u64),
            fua: pending.header.flags & command::FLAG_FUA != 0 && !flush,
        });
        if flush {
            self.current = None;
        }
        Step::Went
    }

    /// Answers where data is; no request to the engine is needed.
    fn block_status(&mut self, io: &mut FrontIo<'_>, header: &RequestHeader) -> Step {
        if !self.outbox.reserve(STATUS_ROOM) {
            return Step::Waits;
        }
        self.inbox.consume(RequestHeader::BYTES);
        let mut extents = [(0u32, 0u32); MAX_EXTENTS];
        let mut count = 0;
        let wanted = if header.flags & command::FLAG_REQ_ONE != 0 { 1 } else { MAX_EXTENTS };
        let mut at = Sector::new(header.offset / SECTOR_BYTES as u64);
        let end = at + Sectors::new(u64::from(header.len) / SECTOR_BYTES as u64);
        while at < end {
            let (extent, sectors) = io.allocation(at, Sectors::new(end.get() - at.get()));
            let state = if extent == Extent::Hole { wire::STATE_HOLE | wire::STATE_ZERO } else { 0 };
            let bytes = sector_bytes(sectors) as u32;
            if count > 0 && extents[count - 1].1 == state {
                extents[count - 1].0 += bytes;
            } else if count < wanted {
                extents[count] = (bytes, state);
                count += 1;
            } else {
                break;
            }
            at = at + sectors;
        }
        let body = 4 + 8 * count;
        self.outbox
            .append(io, &wire::chunk_header(chunk::DONE, chunk::BLOCK_STATUS, header.cookie, body as u32));
        self.outbox.append(io, &wire::ALLOCATION_ID.to_be_bytes());
        for (bytes, state) in &extents[..count] {
            self.outbox.append(io, &bytes.to_be_bytes());
            self.outbox.append(io, &state.to_be_bytes());
        }
        self.outbox.unreserve(STATUS_ROOM - wire::CHUNK_BYTES - body);
        Step::Went
    }

    /// The current request loses what is left of it; what is in the engine comes back and is dropped.
    fn abandon_current(&mut self, io: &mut FrontIo<'_>, slots: &mut Slots) {
        if let Some((slot, _)) = self.open.take() {
            slots.put_back(slot);
        }
        let Some(request) = self.current.take() else { return };
        let pending = self.requests[request as usize].as_mut().expect("a request");
        pending.header.len = pending.issued as u32;
        // The client hung up in the middle of it, or sent nonsense: whatever is answered is no success.
        pending.error = if pending.error == 0 { error::IO } else { pending.error };
        if pending.pieces == 0 {
            self.finish(io, request, false);
        }
    }

    /// Submits a receive and a send if there is need for them.
    fn arm(&mut self, io: &mut FrontIo<'_>) -> std::io::Result<()> {
        use std::os::fd::AsFd;
        let Some(socket) = &self.socket else { return Ok(()) };
        if self.stage == Stage::Dead {
            return Ok(());
        }
        if !self.sending {
            let bytes = self.outbox.next_to_send();
            if !bytes.is_empty() {
                self.sending = true;
                io.ring.send(super::event_id(self.place, Io::Send), socket.as_fd(), bytes)?;
            }
        }
        if !self.receiving && self.stage != Stage::Draining {
            let space = self.inbox.space(io);
            if !space.is_empty() {
                self.receiving = true;
                io.ring.recv(super::event_id(self.place, Io::Receive), socket.as_fd(), space)?;
            }
        }
        Ok(())
    }
}
