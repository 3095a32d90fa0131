//! NBD on a Unix socket: the way to a volume without root and without ublk.
//!
//! Fixed newstyle with one export of the empty name; reads, writes, flushes, FUA, trim, write zeroes and block
//! status (`base:allocation`), simple and structured replies, several connections at once. The smallest unit is a
//! sector of 512 bytes, as announced; what is not a multiple is refused.
//!
//! Connections, like everything else, are served by the loop's ring. Slots are shared by all connections; a
//! client keeps at most one while it is slow (the piece of a write whose bytes it has not sent yet), so neither
//! half a frame nor a client that reads no replies can starve the others: `MAX_CLIENTS` is far below the slots.
use crate::front::{FrontEnd, FrontIo};
use crate::memory::Region;
use base::limits::{MAX_REQUEST_BLOCKS, MAX_SLOTS};
use base::{BLOCK_BYTES, Duration, Fault, Instant, SlotId};
use client::{Client, Io};
use slots::Slots;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use stream::{Inbox, Outbox};

mod client;
mod handshake;
mod slots;
mod stream;
mod wire;

/// Connections at once; more wait in the socket's queue until one ends.
pub const MAX_CLIENTS: usize = 32;
/// The longest read or write that is announced to clients.
pub const LARGEST_REQUEST_BYTES: u32 = 32 << 20;
/// Requests of one connection under way.
const REQUESTS_PER_CLIENT: usize = 128;
/// What a client may say in one option; names and contexts are far shorter.
const MAX_OPTION_BYTES: usize = 16 << 10;
/// A handshake, or the last replies to a client that left, may take so long.
const HANDSHAKE_TIME: Duration = Duration::from_millis(10_000);
/// After a failure to accept (out of descriptors), the next try.
const ACCEPT_PAUSE: Duration = Duration::from_millis(1_000);

const INBOX_BYTES: usize = 256 << 10;
const OUTBOX_BYTES: usize = 4 << 20;
const CLIENT_BYTES: usize = INBOX_BYTES + OUTBOX_BYTES + LARGEST_REQUEST_BYTES as usize;

const _: () = assert!(INBOX_BYTES > MAX_OPTION_BYTES + 16);
const _: () = assert!(OUTBOX_BYTES > 4 * MAX_REQUEST_BLOCKS as usize * BLOCK_BYTES);
const _: () = assert!(MAX_CLIENTS < MAX_SLOTS / 2, "slow clients must leave slots to others");

/// The server.
pub struct NbdServer {
    listener: UnixListener,
    path: PathBuf,
    clients: Vec<Client>,
    slots: Slots,
    accepting: bool,
    accept_at: Option<Instant>,
    stopping: bool,
    /// Who is asked first when a slot becomes free.
    turn: usize,
}

impl NbdServer {
    /// Bytes of memory of its own.
    pub const MEMORY_BYTES: usize = MAX_CLIENTS * CLIENT_BYTES;

    /// Listens on a socket at `path`, for its owner alone. A socket left there by a former run is replaced at
    /// once: the lock on the drives has made sure that there is no other server of this volume.
    ///
    /// # Errors
    /// The folder does not exist, is not writable, or the path is too long for a socket (107 bytes).
    pub fn bind(path: &Path) -> io::Result<Self> {
        let mut draft = path.as_os_str().to_owned();
        draft.push("~");
        let draft = PathBuf::from(draft);
        if let Err(error) = std::fs::remove_file(&draft)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let listener = UnixListener::bind(&draft)?;
        std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&draft, path)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            clients: Vec::new(),
            slots: Slots::new(0),
            accepting: false,
            accept_at: None,
            stopping: false,
            turn: 0,
        })
    }

    fn accept(&mut self, io: &mut FrontIo<'_>) -> io::Result<()> {
        let place_free = self.clients.iter().any(Client::is_free);
        let due = self.accept_at.is_none_or(|at| at <= io.now);
        if self.accepting || self.stopping || !place_free || !due {
            return Ok(());
        }
        self.accept_at = None;
        self.accepting = true;
        io.ring.accept(ACCEPT_ID, self.listener.as_fd())
    }

    fn accepted(&mut self, io: &mut FrontIo<'_>, result: i32) -> io::Result<()> {
        self.accepting = false;
        if result < 0 {
            self.accept_at = Some(io.now + ACCEPT_PAUSE);
            return Ok(());
        }
        let socket = crate::ring::adopt(result);
        if self.stopping {
            return Ok(());
        }
        let client = self.clients.iter_mut().find(|c| c.is_free()).expect("accepted only with a free place");
        client.open(io, socket, io.now + HANDSHAKE_TIME);
        client.advance(io, &mut self.slots)
    }

    /// Serves whoever stopped for want of a slot, in turn.
    fn share_slots(&mut self, io: &mut FrontIo<'_>) -> io::Result<()> {
        for n in 0..self.clients.len() {
            if self.slots.is_empty() {
                break;
            }
            let place = (self.turn + n) % self.clients.len();
            if self.clients[place].wants_slot {
                self.turn = place + 1;
                self.clients[place].advance(io, &mut self.slots)?;
            }
        }
        Ok(())
    }

    /// After anything happened to a client: go on, and free its place if it has ended.
    fn settle(&mut self, io: &mut FrontIo<'_>, place: usize) -> io::Result<()> {
        let client = &mut self.clients[place];
        client.advance(io, &mut self.slots)?;
        client.reap(io, &mut self.slots);
        self.share_slots(io)?;
        self.accept(io)
    }
}

const ACCEPT_ID: u64 = 0;

/// The ring's name for an operation of a connection.
fn event_id(place: usize, what: Io) -> u64 {
    1 + 2 * place as u64 + u64::from(what == Io::Send)
}

impl FrontEnd for NbdServer {
    fn memory_bytes(&self) -> usize {
        Self::MEMORY_BYTES
    }

    fn start(&mut self, io: &mut FrontIo<'_>, memory: Region) -> io::Result<()> {
        self.slots = Slots::new(io.slot_count());
        let place = |n: usize| {
            let (inbox, rest) = memory.part(n * CLIENT_BYTES, CLIENT_BYTES).split(INBOX_BYTES);
            let (outbox, large) = rest.split(OUTBOX_BYTES);
            Client::new(n, Inbox::new(inbox), Outbox::new(outbox, large))
        };
        self.clients = (0..MAX_CLIENTS).map(place).collect();
        self.accept(io)
    }

    fn event(&mut self, io: &mut FrontIo<'_>, id: u64, result: i32) -> io::Result<()> {
        if id == ACCEPT_ID {
            self.accepted(io, result)?;
            return self.accept(io);
        }
        let place = (id as usize - 1) / 2;
        let what = if (id - 1) % 2 == 1 { Io::Send } else { Io::Receive };
        self.clients[place].event(io, &mut self.slots, what, result);
        self.settle(io, place)
    }

    fn complete(&mut self, io: &mut FrontIo<'_>, slot: SlotId, result: Result<(), Fault>) -> io::Result<()> {
        let piece = self.slots.returned(slot);
        let place = piece.client as usize;
        self.clients[place].piece_done(io, slot, piece, result);
        self.slots.put_back(slot);
        self.settle(io, place)
    }

    fn tick(&mut self, io: &mut FrontIo<'_>) -> io::Result<Option<Instant>> {
        for place in 0..self.clients.len() {
            if self.clients[place].deadline.is_some_and(|at| at <= io.now) {
                self.clients[place].cut(io, &mut self.slots);
                self.settle(io, place)?;
            }
        }
        self.accept(io)?;
        let handshakes = self.clients.iter().filter_map(|client| client.deadline);
        Ok(handshakes.chain(self.accept_at).min())
    }

    fn stop(&mut self, io: &mut FrontIo<'_>) -> io::Result<()> {
        self.stopping = true;
        for place in 0..self.clients.len() {
            self.clients[place].drain(io, &mut self.slots);
            self.settle(io, place)?;
        }
        Ok(())
    }

    fn clients(&self) -> usize {
        self.clients.iter().filter(|client| !client.is_free()).count()
    }

    fn finished(&self) -> bool {
        self.clients.iter().all(Client::is_free)
    }

    /// The protocol has no word for it: clients see the new size when they connect again.
    fn resized(&mut self, _io: &mut FrontIo<'_>) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for NbdServer {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
