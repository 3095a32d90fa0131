//! A client of NBD: fixed newstyle, simple replies, several requests in flight.
use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A reply that takes longer will not come.
const PATIENCE: Duration = Duration::from_secs(600);
const FLAG_FUA: u16 = 1;

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// Read.
    Read,
    /// Write; with FUA if set.
    Write {
        /// Durable before the reply.
        fua: bool,
    },
    /// Flush.
    Flush,
    /// Discard.
    Trim,
    /// Write zeroes.
    WriteZeroes,
}

impl Command {
    const fn number(self) -> u16 {
        match self {
            Self::Read => 0,
            Self::Write { .. } => 1,
            Self::Flush => 3,
            Self::Trim => 4,
            Self::WriteZeroes => 6,
        }
    }
}

/// A reply.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    /// The request's cookie.
    pub cookie: u64,
    /// 0 or an error number.
    pub error: u32,
    /// Of a read.
    pub data: Vec<u8>,
}

/// A connection, ready for requests.
pub struct Client {
    stream: UnixStream,
    /// Lengths of reads in flight, by cookie.
    reads: HashMap<u64, usize>,
    next: u64,
}

impl Client {
    /// Connects and asks for the one export.
    ///
    /// # Errors
    /// The socket's, or `InvalidData` when the other side does not speak NBD.
    pub fn connect(socket: &Path) -> io::Result<Self> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting)?;
        if greeting[..16] != *b"NBDMAGICIHAVEOPT" {
            return Err(io::Error::new(ErrorKind::InvalidData, "the socket does not speak NBD"));
        }
        // No zeroes after the answer, then the export with the empty name.
        stream.write_all(
            &[&3u32.to_be_bytes()[..], b"IHAVEOPT", &1u32.to_be_bytes(), &0u32.to_be_bytes()].concat(),
        )?;
        stream.read_exact(&mut [0; 10])?;
        Ok(Self { stream, reads: HashMap::new(), next: 1 })
    }

    /// Sends a request; its cookie. `len` is taken from `data` for a write.
    ///
    /// # Errors
    /// The socket's.
    pub fn send(&mut self, command: Command, offset: u64, len: u32, data: &[u8]) -> io::Result<u64> {
        let cookie = self.next;
        self.next += 1;
        let flags = if command == (Command::Write { fua: true }) { FLAG_FUA } else { 0 };
        let mut message = Vec::with_capacity(28 + data.len());
        message.extend_from_slice(&0x2560_9513u32.to_be_bytes());
        message.extend_from_slice(&flags.to_be_bytes());
        message.extend_from_slice(&command.number().to_be_bytes());
        message.extend_from_slice(&cookie.to_be_bytes());
        message.extend_from_slice(&offset.to_be_bytes());
        message.extend_from_slice(&len.to_be_bytes());
        message.extend_from_slice(data);
        if command == Command::Read {
            self.reads.insert(cookie, len as usize);
        }
        self.stream.write_all(&message)?;
        Ok(cookie)
    }

    /// Waits for the next reply.
    ///
    /// # Errors
    /// The socket's; `TimedOut` or `WouldBlock` when none comes.
    pub fn reply(&mut self) -> io::Result<Reply> {
        let mut head = [0; 16];
        self.stream.read_exact(&mut head)?;
        if head[..4] != [0x67, 0x44, 0x66, 0x98] {
            return Err(io::Error::new(ErrorKind::InvalidData, "what came is no reply"));
        }
        let error = u32::from_be_bytes(head[4..8].try_into().expect("four bytes"));
        let cookie = u64::from_be_bytes(head[8..].try_into().expect("eight bytes"));
        let mut data = vec![0; self.reads.remove(&cookie).filter(|_| error == 0).unwrap_or(0)];
        self.stream.read_exact(&mut data)?;
        Ok(Reply { cookie, error, data })
    }
}
