//! What tests write on a volume over NBD, and whether it is there.
use super::nbd::Nbd;

/// Bytes that are written at a time.
pub const CHUNK: u64 = 64 << 10;

/// What a chunk holds after its `turn`-th write: every block something else.
fn content(chunk: u64, turn: u64) -> Vec<u8> {
    let word =
        |block: u64| ((chunk << 32 | block) ^ (turn << 56)).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    // Copied piece by piece: byte by byte takes a build without optimisations longer than everything else that tests do.
    (0..CHUNK / 4096).map(|block| word(block).repeat(512)).collect::<Vec<_>>().concat()
}

/// What must be on the volume: by chunk, the turn that wrote it last.
#[derive(Clone)]
pub struct Contents(pub Vec<u64>);

impl Contents {
    pub fn new(chunks: usize) -> Self {
        Self(vec![0; chunks])
    }

    /// Writes chunks, each `step`-th from `first` on, with something new.
    pub fn write(&mut self, nbd: &mut Nbd, first: usize, step: usize) {
        for chunk in (first..self.0.len()).step_by(step) {
            self.0[chunk] += 1;
            nbd.write(chunk as u64 * CHUNK, &content(chunk as u64, self.0[chunk]));
        }
        nbd.flush();
    }

    /// What a chunk holds after its next write.
    pub fn chunk(&self, chunk: u64) -> Vec<u8> {
        content(chunk, self.0[chunk as usize] + 1)
    }

    /// Whether this is what a chunk must hold.
    pub fn is(&self, chunk: u64, read: &[u8]) -> bool {
        match self.0[chunk as usize] {
            0 => read == vec![0; read.len()],
            turn => read == content(chunk, turn),
        }
    }

    pub fn check(&self, nbd: &mut Nbd) {
        for chunk in 0..self.0.len() as u64 {
            let read = nbd.read(chunk * CHUNK, CHUNK as usize);
            assert!(self.is(chunk, &read), "chunk {chunk} of turn {}", self.0[chunk as usize]);
        }
    }
}
