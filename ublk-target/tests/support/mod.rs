//! A target over one file with the linear engine, in a thread, and an NBD client made of plain bytes.
#![allow(dead_code, reason = "each test binary uses its part")]
use base::{Duration, Sectors};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread::JoinHandle;
use ublk_target::linear::LinearEngine;
use ublk_target::{
    Access, Drive, Ended, Handle, NbdServer, NoControl, Options, Target, TargetError, VolumeInfo,
};

/// A folder that vanishes with the test.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("plinth-nbd-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).expect("a folder");
        Self(path)
    }
    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A served file.
pub struct Server {
    pub folder: Folder,
    pub image: PathBuf,
    pub socket: PathBuf,
    pub handle: Handle<LinearEngine>,
    thread: Option<JoinHandle<Result<Ended<LinearEngine>, TargetError>>>,
}

impl Server {
    pub fn start(bytes: u64) -> Self {
        Self::with(bytes, false)
    }

    pub fn with(bytes: u64, read_only: bool) -> Self {
        let folder = Folder::new();
        let (image, socket) = (folder.join("image"), folder.join("socket"));
        File::create_new(&image).and_then(|file| file.set_len(bytes)).expect("an image");
        let drive = Drive::open(&image, Access::ReadWrite).expect("a drive");
        let engine = LinearEngine::new(drive.size());
        let volume = VolumeInfo {
            sectors: engine.sectors(),
            stripe_bytes: 1 << 16,
            max_discard: Sectors::new(1 << 12),
            read_only,
        };
        let options = Options { stuck_after: Duration::from_millis(5_000), ..Options::default() };
        let target = Target::new(engine, vec![drive], volume, options).expect("a target");
        let handle = target.handle();
        let mut server = NbdServer::bind(&socket).expect("a socket");
        let thread = std::thread::spawn(move || target.run(&mut server, &mut NoControl));
        Self { folder, image, socket, handle, thread: Some(thread) }
    }

    pub fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.socket.display())
    }

    pub fn connect(&self) -> UnixStream {
        connect(&self.socket)
    }

    /// Ends the target in order.
    pub fn stop(mut self) -> Folder {
        self.handle.stop();
        let ended = self.thread.take().expect("running").join().expect("no panic");
        assert!(ended.is_ok(), "the target ended in order");
        std::mem::replace(&mut self.folder, Folder(PathBuf::from("/nonexistent")))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.handle.stop();
            let _ = thread.join();
        }
    }
}

pub fn connect(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).expect("the server listens");
    stream.set_read_timeout(Some(std::time::Duration::from_secs(600))).expect("a timeout");
    stream
}

pub const OPT_EXPORT_NAME: u32 = 1;
pub const OPT_ABORT: u32 = 2;
pub const OPT_LIST: u32 = 3;
pub const OPT_INFO: u32 = 6;
pub const OPT_GO: u32 = 7;
pub const OPT_STRUCTURED: u32 = 8;
pub const OPT_SET_CONTEXT: u32 = 10;
pub const REP_ACK: u32 = 1;

/// A client that says exactly what it is told to.
pub struct Client(pub UnixStream);

/// A reply chunk: flags, kind, cookie, payload.
pub type Chunk = (u16, u16, u64, Vec<u8>);

impl Client {
    /// Greeted, flags exchanged.
    pub fn greeted(server: &Server) -> Self {
        let mut client = Self(server.connect());
        let mut hello = [0; 18];
        client.0.read_exact(&mut hello).expect("a greeting");
        assert_eq!(&hello[..16], b"NBDMAGICIHAVEOPT");
        assert_eq!(hello[16..], [0, 3]);
        client.send(&3u32.to_be_bytes());
        client
    }

    /// In transmission with simple replies.
    pub fn simple(server: &Server) -> Self {
        let mut client = Self::greeted(server);
        client.go();
        client
    }

    /// In transmission with structured replies and block status.
    pub fn structured(server: &Server) -> Self {
        let mut client = Self::greeted(server);
        client.option(OPT_STRUCTURED, &[]);
        assert_eq!(client.option_reply().1, REP_ACK);
        let mut query = vec![0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 15];
        query.extend_from_slice(b"base:allocation");
        client.option(OPT_SET_CONTEXT, &query);
        assert_eq!(client.option_reply().1, 4);
        assert_eq!(client.option_reply().1, REP_ACK);
        client.go();
        client
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("the server takes it");
    }

    pub fn option(&mut self, option: u32, data: &[u8]) {
        self.send(b"IHAVEOPT");
        self.send(&option.to_be_bytes());
        self.send(&(data.len() as u32).to_be_bytes());
        self.send(data);
    }

    /// Option, kind and data of the next reply to an option.
    pub fn option_reply(&mut self) -> (u32, u32, Vec<u8>) {
        let mut head = [0; 20];
        self.0.read_exact(&mut head).expect("a reply");
        assert_eq!(head[..8], [0, 3, 0xe8, 0x89, 4, 0x55, 0x65, 0xa9]);
        let number = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().expect("four"));
        let mut data = vec![0; number(16) as usize];
        self.0.read_exact(&mut data).expect("data");
        (number(8), number(12), data)
    }

    pub fn go(&mut self) {
        self.option(OPT_GO, &[0; 6]);
        while self.option_reply().1 != REP_ACK {}
    }

    pub fn request(&mut self, command: u16, flags: u16, cookie: u64, offset: u64, len: u32) {
        let mut out = [0; 28];
        out[..4].copy_from_slice(&0x2560_9513u32.to_be_bytes());
        out[4..6].copy_from_slice(&flags.to_be_bytes());
        out[6..8].copy_from_slice(&command.to_be_bytes());
        out[8..16].copy_from_slice(&cookie.to_be_bytes());
        out[16..24].copy_from_slice(&offset.to_be_bytes());
        out[24..].copy_from_slice(&len.to_be_bytes());
        self.send(&out);
    }

    /// Error and cookie of a simple reply.
    pub fn reply(&mut self) -> (u32, u64) {
        let mut head = [0; 16];
        self.0.read_exact(&mut head).expect("a reply");
        assert_eq!(head[..4], [0x67, 0x44, 0x66, 0x98], "a simple reply");
        let error = u32::from_be_bytes(head[4..8].try_into().expect("four"));
        (error, u64::from_be_bytes(head[8..].try_into().expect("eight")))
    }

    pub fn data(&mut self, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.0.read_exact(&mut data).expect("data");
        data
    }

    pub fn chunk(&mut self) -> Chunk {
        let head = self.data(20);
        assert_eq!(head[..4], [0x66, 0x8e, 0x33, 0xef], "a chunk");
        let flags = u16::from_be_bytes(head[4..6].try_into().expect("two"));
        let kind = u16::from_be_bytes(head[6..8].try_into().expect("two"));
        let cookie = u64::from_be_bytes(head[8..16].try_into().expect("eight"));
        let len = u32::from_be_bytes(head[16..].try_into().expect("four"));
        (flags, kind, cookie, self.data(len as usize))
    }

    pub fn write(&mut self, offset: u64, data: &[u8]) -> u32 {
        self.request(1, 0, 77, offset, data.len() as u32);
        self.send(data);
        let (error, cookie) = self.reply();
        assert_eq!(cookie, 77);
        error
    }

    /// Whether the server has hung up.
    pub fn hung_up(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => true,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

/// Bytes that differ by place and seed.
pub fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..len.div_ceil(8)).flat_map(next).take(len).collect()
}
