//! Conversations with the NBD server: the real loop over a file, one client after the other.
//!
//! An input is all that a client says, its greeting included; then it hangs up. Promises: the server neither dies
//! nor hangs, hangs up in turn, and serves the next client as if nothing had happened.
use super::Target;
use crate::signature::Signature;
use base::{Duration, Sectors};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};
use ublk_target::linear::LinearEngine;
use ublk_target::{Access, Drive, NbdServer, NoControl, Options, Target as Loop, VolumeInfo};

/// NBD.
pub const NBD: Target = Target {
    name: "nbd",
    about: "what a client says to the NBD server",
    seeds,
    words: &[b"IHAVEOPT", b"\x25\x60\x95\x13", b"base:allocation", b"\0\0\0\x07\0\0\0\x06\0\0\0\0\0\0"],
    run,
    cost: 4,
};

/// Bytes of the served file.
const BYTES: u64 = 8 << 20;
/// An answer that takes longer will not come.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(120);

/// The server lives as long as this process; its folder goes when the file and socket are open.
struct Server {
    socket: PathBuf,
}

fn server() -> &'static Mutex<Server> {
    static SERVER: OnceLock<Mutex<Server>> = OnceLock::new();
    SERVER.get_or_init(|| Mutex::new(start()))
}

fn start() -> Server {
    let folder = std::env::temp_dir().join(format!("plinth-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder for the server");
    let (image, socket) = (folder.join("image"), folder.join("socket"));
    File::create(&image).and_then(|file| file.set_len(BYTES)).expect("an image");
    let drive = Drive::open(&image, Access::ReadWrite).expect("a drive");
    std::fs::remove_file(&image).expect("the image is open");
    let engine = LinearEngine::new(drive.size());
    let volume = VolumeInfo {
        sectors: engine.sectors(),
        stripe_bytes: 1 << 16,
        max_discard: Sectors::new(1 << 12),
        read_only: false,
    };
    let options = Options { stuck_after: Duration::from_millis(5_000), ..Options::default() };
    let target = Loop::new(engine, vec![drive], volume, options).expect("a target");
    let mut front = NbdServer::bind(&socket).expect("a socket");
    std::thread::spawn(move || target.run(&mut front, &mut NoControl));
    Server { socket }
}

fn option(number: u32, data: &[u8]) -> Vec<u8> {
    [b"IHAVEOPT", &number.to_be_bytes()[..], &(data.len() as u32).to_be_bytes(), data].concat()
}

fn request(command: u16, flags: u16, offset: u64, len: u32, data: &[u8]) -> Vec<u8> {
    let head = [0x25, 0x60, 0x95, 0x13];
    let cookie = 7u64.to_be_bytes();
    [
        &head[..],
        &flags.to_be_bytes(),
        &command.to_be_bytes(),
        &cookie,
        &offset.to_be_bytes(),
        &len.to_be_bytes(),
        data,
    ]
    .concat()
}

fn seeds() -> Vec<Vec<u8>> {
    let hello = 3u32.to_be_bytes().to_vec();
    let go = option(7, &[0; 6]);
    let mut query = vec![0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 15];
    query.extend_from_slice(b"base:allocation");
    let bye = request(2, 0, 0, 0, &[]);
    let requests = [
        request(1, 1, 4096, 512, &[7; 512]),
        request(0, 0, 0, 8192, &[]),
        request(3, 0, 0, 0, &[]),
        request(4, 0, 4096, 4096, &[]),
        request(6, 2, 8192, 1 << 20, &[]),
        request(7, 8, 0, 1 << 20, &[]),
    ]
    .concat();
    let plain = [hello.clone(), go.clone(), requests.clone(), bye.clone()].concat();
    let structured = [hello.clone(), option(8, &[]), option(10, &query), go, requests, bye.clone()].concat();
    let haggling =
        [hello.clone(), option(3, &[]), option(6, &[0; 6]), option(9, &query), option(2, &[])].concat();
    let old = [vec![0, 0, 0, 1], option(1, &[]), bye].concat();
    vec![plain, structured, haggling, old, hello]
}

fn connect(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).expect("the server is there");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
    stream
}

/// Whether the other side has gone, which is its right after nonsense.
fn gone(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

fn run(input: &[u8]) -> Signature {
    let server = server().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut signature = Signature::default();
    let stream = connect(&server.socket);
    let mut talker = stream.try_clone().expect("a second handle");
    let mut answer = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // The server may hang up in the middle of it.
            let said = talker.write_all(input).and_then(|()| talker.shutdown(Shutdown::Write));
            assert!(
                said.err().is_none_or(|error| gone(error.kind()) || error.kind() == ErrorKind::NotConnected)
            );
        });
        let mut listener = &stream;
        match listener.read_to_end(&mut answer) {
            Err(error) => assert!(gone(error.kind()), "the server does not hang up: {error}"),
            Ok(_) => signature.note(1),
        }
    });
    signature.note(u64::from(answer.len().checked_ilog2().unwrap_or(0)));
    kinds(&answer, &mut signature);
    next_is_served(&server.socket);
    signature
}

/// The kinds of replies, by their magic.
fn kinds(answer: &[u8], signature: &mut Signature) {
    for at in (0..answer.len().min(4096).saturating_sub(20)).step_by(2) {
        match answer[at..at + 4] {
            [0, 3, 0xe8, 0x89] => signature.note(u64::from(answer[at + 15])),
            [0x67, 0x44, 0x66, 0x98] => signature.note(100 + u64::from(answer[at + 7])),
            [0x66, 0x8e, 0x33, 0xef] => signature.note(200 + u64::from(answer[at + 7])),
            _ => {}
        }
    }
}

fn next_is_served(socket: &Path) {
    let mut stream = connect(socket);
    let mut greeting = [0; 18];
    stream.read_exact(&mut greeting).expect("the next client is greeted");
    assert_eq!(&greeting[..16], b"NBDMAGICIHAVEOPT");
}
