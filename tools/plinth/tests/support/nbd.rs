//! A small NBD client: enough to write, flush and read back.
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// A connection.
pub struct Nbd {
    stream: UnixStream,
    /// Size of the export in bytes.
    pub size: u64,
    cookie: u64,
}

impl Nbd {
    /// Connects to the export of the empty name.
    pub fn connect(path: &Path) -> Self {
        let mut stream = UnixStream::connect(path).expect("the socket accepts");
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting).expect("a greeting");
        assert_eq!(&greeting[..16], b"NBDMAGICIHAVEOPT");
        // Fixed newstyle, no zeroes; NBD_OPT_EXPORT_NAME of the empty name.
        stream.write_all(&3u32.to_be_bytes()).expect("sent");
        let option = [b"IHAVEOPT".as_slice(), &1u32.to_be_bytes(), &0u32.to_be_bytes()].concat();
        stream.write_all(&option).expect("sent");
        let mut export = [0; 10];
        stream.read_exact(&mut export).expect("an export");
        let size = u64::from_be_bytes(export[..8].try_into().expect("eight bytes"));
        Self { stream, size, cookie: 0 }
    }

    fn ask(&mut self, command: u16, offset: u64, length: u32, data: &[u8]) -> u32 {
        self.cookie += 1;
        let mut request = Vec::new();
        request.extend_from_slice(&0x2560_9513u32.to_be_bytes());
        request.extend_from_slice(&0u16.to_be_bytes());
        request.extend_from_slice(&command.to_be_bytes());
        request.extend_from_slice(&self.cookie.to_be_bytes());
        request.extend_from_slice(&offset.to_be_bytes());
        request.extend_from_slice(&length.to_be_bytes());
        request.extend_from_slice(data);
        self.stream.write_all(&request).expect("sent");
        let mut reply = [0; 16];
        self.stream.read_exact(&mut reply).expect("a reply");
        assert_eq!(reply[8..], self.cookie.to_be_bytes());
        u32::from_be_bytes(reply[4..8].try_into().expect("four bytes"))
    }

    /// Writes; the error number, 0 for success.
    pub fn try_write(&mut self, offset: u64, data: &[u8]) -> u32 {
        self.ask(1, offset, data.len() as u32, data)
    }

    /// Writes.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        assert_eq!(self.try_write(offset, data), 0, "a write at {offset}");
    }

    /// Flushes.
    pub fn flush(&mut self) {
        assert_eq!(self.ask(3, 0, 0, &[]), 0, "a flush");
    }

    /// Reads; the error number if that fails.
    pub fn try_read(&mut self, offset: u64, length: usize) -> Result<Vec<u8>, u32> {
        match self.ask(0, offset, length as u32, &[]) {
            0 => {
                let mut data = vec![0; length];
                self.stream.read_exact(&mut data).expect("data");
                Ok(data)
            }
            error => Err(error),
        }
    }

    /// Reads.
    pub fn read(&mut self, offset: u64, length: usize) -> Vec<u8> {
        assert_eq!(self.ask(0, offset, length as u32, &[]), 0, "a read at {offset}");
        let mut data = vec![0; length];
        self.stream.read_exact(&mut data).expect("data");
        data
    }
}
