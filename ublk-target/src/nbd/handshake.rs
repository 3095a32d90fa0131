//! The haggling before a client may send requests: fixed newstyle, one export with the empty name.
//!
//! Each step looks at what has been received and says what it made of it; nothing waits inside. What is not
//! understood is answered as unsupported and skipped, what is not NBD at all ends the connection.
use super::client::{Client, Stage};
use super::wire::{self, OptionHeader, info, option, reply, transmission};
use super::{LARGEST_REQUEST_BYTES, MAX_OPTION_BYTES};
use crate::front::FrontIo;
use base::{BLOCK_BYTES, SECTOR_BYTES};

/// Room that an option's replies may need.
pub(super) const REPLY_ROOM: usize = 512;

/// What became of a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// Something was understood; there may be more.
    Went,
    /// More bytes, or room for the reply, are needed.
    Waits,
    /// The client is to be cut off once its replies have left.
    Ends,
}

/// The server's first words.
pub(super) fn greet(client: &mut Client, io: &mut FrontIo<'_>) {
    let mut hello = [0; 18];
    hello[..8].copy_from_slice(&wire::GREETING.to_be_bytes());
    hello[8..16].copy_from_slice(&wire::OPTION_MAGIC.to_be_bytes());
    hello[16..].copy_from_slice(&((wire::FIXED_NEWSTYLE | wire::NO_ZEROES) as u16).to_be_bytes());
    client.say(io, &hello);
}

/// The client's answer to the greeting.
pub(super) fn client_flags(client: &mut Client, io: &mut FrontIo<'_>) -> Step {
    let Some(bytes) = client.inbox.array::<4>(io) else { return Step::Waits };
    client.inbox.consume(4);
    let flags = u32::from_be_bytes(bytes);
    if flags & !(wire::FIXED_NEWSTYLE | wire::NO_ZEROES) != 0 {
        return Step::Ends;
    }
    client.no_zeroes = flags & wire::NO_ZEROES != 0;
    client.stage = Stage::Options;
    Step::Went
}

/// One option.
pub(super) fn one_option(client: &mut Client, io: &mut FrontIo<'_>) -> Step {
    let Some(bytes) = client.inbox.array::<{ OptionHeader::BYTES }>(io) else { return Step::Waits };
    let Some(header) = OptionHeader::parse(&bytes) else { return Step::Ends };
    let len = header.len as usize;
    if len > MAX_OPTION_BYTES {
        return Step::Ends;
    }
    if client.inbox.len() < OptionHeader::BYTES + len {
        return Step::Waits;
    }
    // The replies to one option fit this, and nothing else has room reserved during the handshake.
    if !client.outbox.reserve(REPLY_ROOM) {
        return Step::Waits;
    }
    client.outbox.unreserve(REPLY_ROOM);
    client.inbox.consume(OptionHeader::BYTES);
    let step = answer(client, io, header.option, len);
    client.inbox.consume(len);
    step
}

/// Carries out an option whose `len` bytes of data are next in the inbox.
fn answer(client: &mut Client, io: &mut FrontIo<'_>, option: u32, len: usize) -> Step {
    match option {
        option::EXPORT_NAME => {
            // The one option without an error reply: an unknown name can only be met by hanging up.
            if len != 0 {
                return Step::Ends;
            }
            let mut out = [0; 10 + wire::EXPORT_PADDING];
            out[..8].copy_from_slice(&export_bytes(io).to_be_bytes());
            out[8..10].copy_from_slice(&flags(io).to_be_bytes());
            let used = if client.no_zeroes { 10 } else { out.len() };
            client.say(io, &out[..used]);
            client.stage = Stage::Transmission;
        }
        option::ABORT => {
            respond(client, io, option, reply::ACK, &[]);
            return Step::Ends;
        }
        option::LIST if len == 0 => {
            respond(client, io, option, reply::SERVER, &0u32.to_be_bytes());
            respond(client, io, option, reply::ACK, &[]);
        }
        option::INFO | option::GO => match empty_name(client, io, len) {
            Some(true) => {
                describe(client, io, option);
                if option == option::GO {
                    client.stage = Stage::Transmission;
                }
            }
            Some(false) => {
                respond(client, io, option, reply::ERR_UNKNOWN, b"the only export has the empty name")
            }
            None => respond(client, io, option, reply::ERR_INVALID, &[]),
        },
        option::STRUCTURED_REPLY if len == 0 => {
            client.structured = true;
            respond(client, io, option, reply::ACK, &[]);
        }
        option::LIST_META_CONTEXT | option::SET_META_CONTEXT => contexts(client, io, option, len),
        option::LIST | option::STRUCTURED_REPLY => respond(client, io, option, reply::ERR_INVALID, &[]),
        _ => respond(client, io, option, reply::ERR_UNSUPPORTED, &[]),
    }
    Step::Went
}

fn respond(client: &mut Client, io: &mut FrontIo<'_>, option: u32, kind: u32, data: &[u8]) {
    client.say(io, &wire::option_reply(option, kind, data.len() as u32));
    client.say(io, data);
}

/// Size, flags and block sizes of the export.
fn describe(client: &mut Client, io: &mut FrontIo<'_>, option: u32) {
    let mut export = [0; 12];
    export[..2].copy_from_slice(&info::EXPORT.to_be_bytes());
    export[2..10].copy_from_slice(&export_bytes(io).to_be_bytes());
    export[10..].copy_from_slice(&flags(io).to_be_bytes());
    respond(client, io, option, reply::INFO, &export);
    let mut sizes = [0; 14];
    sizes[..2].copy_from_slice(&info::BLOCK_SIZE.to_be_bytes());
    sizes[2..6].copy_from_slice(&(SECTOR_BYTES as u32).to_be_bytes());
    sizes[6..10].copy_from_slice(&(BLOCK_BYTES as u32).to_be_bytes());
    sizes[10..].copy_from_slice(&LARGEST_REQUEST_BYTES.to_be_bytes());
    respond(client, io, option, reply::INFO, &sizes);
    respond(client, io, option, reply::ACK, &[]);
}

/// Whether INFO's or GO's data asks for the export that there is; `None` when it is malformed.
fn empty_name(client: &Client, io: &FrontIo<'_>, len: usize) -> Option<bool> {
    let data = io.ring.area().bytes(client.inbox.peek(len));
    let name = wire::be32(data, 0)? as usize;
    let wishes = usize::from(wire::be16(data, 4usize.checked_add(name)?)?);
    (len == 6 + name + 2 * wishes).then_some(name == 0)
}

/// Which metadata contexts there are (LIST), or are wanted (SET).
fn contexts(client: &mut Client, io: &mut FrontIo<'_>, option: u32, len: usize) {
    let data = io.ring.area().bytes(client.inbox.peek(len));
    let Some(query) = ContextQuery::parse(data) else {
        return respond(client, io, option, reply::ERR_INVALID, &[]);
    };
    let set = option == option::SET_META_CONTEXT;
    if set && !client.structured {
        return respond(client, io, option, reply::ERR_INVALID, b"structured replies come first");
    }
    if !query.empty_name {
        return respond(client, io, option, reply::ERR_UNKNOWN, b"the only export has the empty name");
    }
    let named = query.names_allocation || (!set && query.lists_all);
    if set {
        client.block_status = named;
    }
    if named {
        let mut context = [0; 4 + wire::ALLOCATION.len()];
        context[..4].copy_from_slice(&if set { wire::ALLOCATION_ID } else { 0 }.to_be_bytes());
        context[4..].copy_from_slice(wire::ALLOCATION);
        respond(client, io, option, reply::META_CONTEXT, &context);
    }
    respond(client, io, option, reply::ACK, &[]);
}

/// The data of LIST_META_CONTEXT and SET_META_CONTEXT.
struct ContextQuery {
    empty_name: bool,
    names_allocation: bool,
    lists_all: bool,
}

impl ContextQuery {
    fn parse(data: &[u8]) -> Option<Self> {
        let name = wire::be32(data, 0)? as usize;
        let count = wire::be32(data, 4usize.checked_add(name)?)?;
        let mut query = Self { empty_name: name == 0, names_allocation: false, lists_all: count == 0 };
        let mut at = 8 + name;
        for _ in 0..count {
            let len = wire::be32(data, at)? as usize;
            let text = data.get(at + 4..(at + 4).checked_add(len)?)?;
            query.names_allocation |= text == wire::ALLOCATION;
            query.lists_all |= text == b"base:";
            at += 4 + len;
        }
        (at == data.len()).then_some(query)
    }
}

fn export_bytes(io: &FrontIo<'_>) -> u64 {
    io.volume.sectors.get() * SECTOR_BYTES as u64
}

/// Several connections see one another's writes as soon as they are acknowledged, and a flush on any covers all
/// of them: one engine serves them.
fn flags(io: &FrontIo<'_>) -> u16 {
    use transmission::*;
    let always = HAS_FLAGS | SEND_FLUSH | SEND_FUA | CAN_MULTI_CONN;
    let writes = if io.volume.read_only { READ_ONLY } else { SEND_TRIM | SEND_WRITE_ZEROES | SEND_FAST_ZERO };
    always | writes
}
