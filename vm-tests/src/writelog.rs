//! What a drive had when the power went: rebuilt from the log of its writes and flushes.
//!
//! Crash story: killing QEMU is no power cut, for what the guest had issued stays in the host's file. So
//! QEMU's blklogwrites node writes each request into a log (the format of Linux' dm-log-writes), and the
//! drive is made anew from it: everything up to the last flush is there; of every later write the whole, a
//! part or nothing, each for itself, as the seed says; a write with FUA is there.
//!
//! How the log relates to the truth: a request is logged before it is completed towards the guest, so
//! whatever was acknowledged is in the log. The kill itself may leave an entry half written or a gap where
//! one was in flight, behind which later entries, even a flush, are complete: [`Log::read`] steps over such
//! gaps. The count in the log's superblock is only as new as the last flush and is not relied on.
//!
//! Not modelled: a flush makes durable also what was in flight beside it and logged before it; a drive that
//! lies about flushes (the simulator does that).

use crate::error::{Context, Error, Result};
use crate::random::Random;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// First word of a log (little-endian), as in Linux' drivers/md/dm-log-writes.c.
const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;
const MARK: u64 = 8;
/// Sectors that one request of a guest can have; bounds what is taken for an entry behind a gap. 64 MiB.
const LARGEST_REQUEST_SECTORS: u64 = 131_072;
const SECTOR_BYTES: u64 = 512;

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The first sector of the drive.
    pub sector: u64,
    /// How many sectors.
    pub count: u64,
    /// Where its data is in the log, in bytes.
    pub data_at: u64,
    flags: u64,
}

impl Entry {
    fn is_flush(&self) -> bool {
        self.flags & FLUSH != 0
    }

    fn is_discard(&self) -> bool {
        self.flags & DISCARD != 0
    }

    /// FUA writes, and the data of a request that is a flush too, are not at risk once logged.
    fn is_safe_alone(&self) -> bool {
        self.flags & (FUA | FLUSH) != 0
    }

    /// Sectors of data that follow the entry's header in the log.
    fn data_sectors(&self) -> u64 {
        if self.is_discard() { 0 } else { self.count }
    }
}

/// A log that was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// Its requests in order.
    pub entries: Vec<Entry>,
    /// How many gaps the kill left.
    pub gaps: u32,
}

impl Log {
    /// Reads the log of a drive of `drive_bytes`.
    ///
    /// # Errors
    /// It cannot be read or is no such log.
    pub fn read(path: &Path, drive_bytes: u64) -> Result<Log> {
        let doing = || format!("read the write log {}", path.display());
        let file = File::open(path).doing(doing)?;
        let end = file.metadata().doing(doing)?.len();
        if end == 0 {
            // QEMU writes the log's superblock with the first flush or at its end.
            return Ok(Log::default());
        }
        let mut head = [0u8; 28];
        file.read_exact_at(&mut head, 0).doing(doing)?;
        let blank = head.iter().all(|b| *b == 0);
        let sector_bytes = u32::from_le_bytes(head[24..28].try_into().expect("four bytes"));
        let known = word(&head, 0) == MAGIC && word(&head, 1) == VERSION;
        if !blank && (!known || u64::from(sector_bytes) != SECTOR_BYTES) {
            return Err(Error::failed(format!(
                "{} is no write log with sectors of {SECTOR_BYTES} bytes",
                path.display()
            )));
        }
        let reader = Reader { file: &file, end, drive_sectors: drive_bytes / SECTOR_BYTES };
        let mut log = Log::default();
        let mut at = SECTOR_BYTES;
        while at + SECTOR_BYTES <= end {
            if let Some(entry) = reader.entry(at) {
                at = entry.data_at + entry.data_sectors() * SECTOR_BYTES;
                if at <= end {
                    log.entries.push(entry);
                }
            } else {
                log.gaps += 1;
                match reader.behind_gap(at) {
                    Some(next) => at = next,
                    None => break,
                }
            }
        }
        Ok(log)
    }

    /// How many entries come before the last flush, that one included.
    #[must_use]
    pub fn durable(&self) -> usize {
        self.entries.iter().rposition(Entry::is_flush).map_or(0, |at| at + 1)
    }
}

struct Reader<'a> {
    file: &'a File,
    end: u64,
    drive_sectors: u64,
}

impl Reader<'_> {
    /// The entry whose header is at `at`, if there is one.
    fn entry(&self, at: u64) -> Option<Entry> {
        let mut sector = [0u8; SECTOR_BYTES as usize];
        self.file.read_exact_at(&mut sector, at).ok()?;
        let (first, count, flags, extra) =
            (word(&sector, 0), word(&sector, 1), word(&sector, 2), word(&sector, 3));
        let clean = extra == 0 && sector[32..].iter().all(|b| *b == 0);
        let known = flags & !(FLUSH | FUA | DISCARD | MARK) == 0 && flags & MARK == 0;
        let inside = first.checked_add(count).is_some_and(|last| last <= self.drive_sectors);
        let does_something = count > 0 || flags & FLUSH != 0;
        let sized = count <= LARGEST_REQUEST_SECTORS || flags & DISCARD != 0;
        (clean && known && inside && does_something && sized).then_some(Entry {
            sector: first,
            count,
            data_at: at + SECTOR_BYTES,
            flags,
        })
    }

    /// The next place from which three entries in a row, or all up to the end, can be read. Guest data that
    /// looks like that would need three sectors of zeros but for fitting numbers, at fitting distances.
    fn behind_gap(&self, gap: u64) -> Option<u64> {
        let mut start = gap + SECTOR_BYTES;
        while start + SECTOR_BYTES <= self.end {
            let mut at = start;
            let mut good = 0;
            while good < 3 && at + SECTOR_BYTES <= self.end {
                let Some(entry) = self.entry(at) else { break };
                at = entry.data_at + entry.data_sectors() * SECTOR_BYTES;
                good += 1;
            }
            if good == 3 || (good > 0 && at >= self.end) {
                return Some(start);
            }
            start += SECTOR_BYTES;
        }
        None
    }
}

fn word(bytes: &[u8], index: usize) -> u64 {
    u64::from_le_bytes(bytes[index * 8..index * 8 + 8].try_into().expect("eight bytes"))
}

/// What became of the writes of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fate {
    /// Entries that a flush or FUA had made durable.
    pub durable: u64,
    /// Later ones that are there.
    pub kept: u64,
    /// Later ones that are not.
    pub dropped: u64,
    /// Later ones of which a part is there.
    pub torn: u64,
}

/// How a drive treats what it had not flushed: of twelve writes, how many are there whole, and how many in part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Temper {
    whole: u64,
    parts: u64,
}

impl Temper {
    /// A drive that loses or keeps everything is as likely as one that does neither: both are what real drives do,
    /// and the mixture alone would hardly ever make them.
    fn draw(random: &mut Random) -> Temper {
        let (whole, parts) = match random.below(8) {
            0 | 1 => (0, 0),
            2 | 3 => (12, 0),
            4 | 5 => (4, 4),
            6 => (10, 1),
            _ => (1, 1),
        };
        Temper { whole, parts }
    }
}

/// What a drive does to its unflushed writes when the power goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manner {
    /// What of a write survives or is lost as one, in sectors of 512 bytes; 0 for a drive that tears nothing.
    pub tears_at: u64,
    /// Whether flushes were lies: then nothing is safe.
    pub lies: bool,
}

impl Manner {
    /// A drive within the contract: it tears at sectors and keeps what was flushed.
    pub const HONEST: Manner = Manner { tears_at: 1, lies: false };

    /// An honest drive with larger sectors.
    #[must_use]
    pub fn with_sectors_of(bytes: u32) -> Manner {
        Manner { tears_at: u64::from(bytes) / SECTOR_BYTES, ..Manner::HONEST }
    }
}

/// What of one write is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survivor {
    /// Its place among the entries of the log.
    pub entry: usize,
    /// Which of its sectors.
    pub sectors: Range<u64>,
}

/// Which writes a power cut leaves, from entry `from` of the log on, in their order. What lies before `from` must be
/// durable. The same seed gives the same survivors.
#[must_use]
pub fn survivors(log: &Log, from: usize, manner: Manner, seed: u64) -> (Vec<Survivor>, Fate) {
    let mut random = Random::new(seed);
    let temper = Temper::draw(&mut random);
    let durable = if manner.lies { 0 } else { log.durable() };
    assert!(from <= durable || manner.lies, "what is left out is durable");
    let mut fate = Fate::default();
    let mut there = Vec::new();
    for (at, entry) in log.entries.iter().enumerate().skip(from) {
        let safe = at < durable || (entry.is_safe_alone() && !manner.lies);
        let sectors = if safe {
            fate.durable += 1;
            0..entry.count
        } else {
            choose(entry, temper, manner, &mut random, &mut fate)
        };
        there.push(Survivor { entry: at, sectors });
    }
    (there, fate)
}

/// Makes the drive that a power cut leaves: `image` holds what was there before the log began, and is
/// changed. The same seed gives the same drive.
///
/// # Errors
/// The log or the image cannot be read or written.
pub fn rebuild(log_path: &Path, log: &Log, image: &Path, manner: Manner, seed: u64) -> Result<Fate> {
    let source = File::open(log_path).doing(|| format!("open {}", log_path.display()))?;
    let target = File::options().read(true).write(true).open(image);
    let target = target.doing(|| format!("open {}", image.display()))?;
    let (there, fate) = survivors(log, 0, manner, seed);
    for survivor in there {
        let write = |at: u64, bytes: &[u8]| target.write_all_at(bytes, at);
        log.entries[survivor.entry]
            .replay(&source, survivor.sectors, write)
            .doing(|| format!("rebuild {}", image.display()))?;
    }
    Ok(fate)
}

/// Which sectors of a write at risk survive.
fn choose(entry: &Entry, temper: Temper, manner: Manner, random: &mut Random, fate: &mut Fate) -> Range<u64> {
    let units = entry.count.checked_div(manner.tears_at).unwrap_or(1);
    let dice = random.below(12);
    if dice < temper.whole || (dice < temper.whole + temper.parts && units < 2) {
        fate.kept += 1;
        return 0..entry.count;
    }
    if dice < temper.whole + temper.parts {
        fate.torn += 1;
        let cut = (1 + random.below(units - 1)) * manner.tears_at;
        return if random.below(2) == 0 { 0..cut } else { cut..entry.count };
    }
    fate.dropped += 1;
    0..0
}

impl Entry {
    /// Hands the data of these sectors of the entry to `write`, in pieces, each with its place on the drive in bytes.
    /// `source` is the log.
    ///
    /// # Errors
    /// The log's, or what `write` says.
    pub fn replay(
        &self,
        source: &File,
        sectors: Range<u64>,
        mut write: impl FnMut(u64, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        const CHUNK: u64 = 1 << 20;
        let (mut at, end) = (sectors.start * SECTOR_BYTES, sectors.end * SECTOR_BYTES);
        let mut buffer = vec![0u8; usize::try_from(CHUNK.min(end - at)).expect("a chunk fits")];
        while at < end {
            let length = CHUNK.min(end - at);
            let chunk = &mut buffer[..usize::try_from(length).expect("a chunk fits")];
            if !self.is_discard() {
                source.read_exact_at(chunk, self.data_at + at)?;
            }
            write(self.sector * SECTOR_BYTES + at, chunk)?;
            at += length;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
