//! Edits: what an input does to an image.
//!
//! With repairs the sealed parts of an encrypted image are edited in plain text and sealed again, else as they are stored.
//!
//! The first byte chooses the image and the mode, then come edits of eight bytes: part (u16), byte in it (u16), what
//! (u8), value (u8), and two bytes that some edits use. Any bytes are edits of some kind.
use super::make::{Image, content, images};
use super::parts::{Check as At, Part, PartKind, parts, sealer};
use super::secret::Sealer;
use base::codec::{put_check, put_u64, u16_at, u32_at};
use base::{BLOCK_BYTES, Blocks, Check, DriveBlock};
use plinth_check::{Media, MemoryMedia};
use rlog::layout::{H_BODY_BYTES, H_CHECK, H_PREVIOUS, HEADER_BYTES, MAX_BODY_BYTES};
use std::collections::HashSet;
use std::sync::OnceLock;
use volume::layout::{OWN_CHECK, superblock};

/// Edits of an input at most.
const MAX_EDITS: usize = 12;
/// Bytes of an edit.
pub const EDIT_BYTES: usize = 8;
/// Where a superblock has numbers that only grow.
const NUMBERS: std::ops::Range<usize> = superblock::GEN_AT..superblock::PREV_CHECK_AT;

/// Which copies are damaged, and whether checks are made right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// All copies alike; checks are repaired up to the superblock.
    Repaired,
    /// The copies on one leg: what a mirror must live with.
    OneLeg(u8),
    /// All copies alike.
    AllLegs,
}

/// One edit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Edit {
    part: usize,
    at: usize,
    what: u8,
    value: u8,
    extra: u16,
}

/// An image with damage.
pub struct Damaged {
    /// The image that it was.
    pub image: &'static Image,
    /// How it was damaged.
    pub mode: Mode,
    /// The drives.
    pub drives: Vec<MemoryMedia>,
    /// Content of guest blocks that has been damaged: no read may return it.
    pub poisoned: HashSet<Check>,
    /// Kinds of the parts that were changed.
    pub kinds: Vec<PartKind>,
}

fn parts_of(image: usize) -> &'static [Part] {
    static PARTS: OnceLock<Vec<Vec<Part>>> = OnceLock::new();
    &PARTS.get_or_init(|| images().iter().map(parts).collect())[image]
}

fn sealer_of(image: usize) -> Option<Sealer> {
    static SEALERS: OnceLock<Vec<Option<Sealer>>> = OnceLock::new();
    SEALERS.get_or_init(|| images().iter().map(sealer).collect())[image]
}

/// Inputs to begin with: each image whole, and one edit of each kind of part in each mode.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for image in 0..images().len() {
        let mut kinds: Vec<PartKind> = Vec::new();
        seeds.push(vec![image as u8]);
        for (index, part) in parts_of(image).iter().enumerate() {
            if kinds.contains(&part.kind) {
                continue;
            }
            kinds.push(part.kind);
            for mode in [0u8, 0x10, 0x30, 0x20] {
                let index = (index as u16).to_le_bytes();
                let edit = [index[0], index[1], 32 + mode, 0, 1, 1, 0, 0];
                seeds.push([&[image as u8 | mode][..], &edit].concat());
            }
            if part.kind == PartKind::Superblock {
                seeds.extend(numbers(image as u8, index as u16));
            }
        }
    }
    seeds
}

/// Each number of a superblock at its very end, where sums run over: the largest there is, and the largest of 52 bits.
fn numbers(image: u8, part: u16) -> impl Iterator<Item = Vec<u8>> {
    let part = part.to_le_bytes();
    let at = (NUMBERS.start..NUMBERS.end).step_by(8);
    at.flat_map(move |at| {
        let at = (at as u16).to_le_bytes();
        [(0, 0), (12, 0), (12, 2)]
            .map(|(shift, more)| vec![image, part[0], part[1], at[0], at[1], 3, shift, more, 0])
    })
}

/// Carries out an input.
pub fn damage(input: &[u8]) -> Damaged {
    let head = input.first().copied().unwrap_or(0);
    let index = usize::from(head & 0x0f) % images().len();
    let image = &images()[index];
    let mode = match head >> 4 & 3 {
        0 => Mode::Repaired,
        2 => Mode::AllLegs,
        leg => Mode::OneLeg((leg >> 1) % image.legs),
    };
    let parts = parts_of(index);
    let seals = if mode == Mode::Repaired { sealer_of(index) } else { None };
    let mut bench = Bench::new(image, parts, seals);
    let edits = input.get(1..).unwrap_or(&[]).chunks_exact(EDIT_BYTES).take(MAX_EDITS);
    edits.for_each(|bytes| bench.edit(&parse(bytes)));
    if mode == Mode::Repaired {
        bench.repair();
    }
    bench.put_together(mode)
}

fn parse(bytes: &[u8]) -> Edit {
    Edit {
        part: usize::from(u16_at(bytes, 0)),
        at: usize::from(u16_at(bytes, 2)),
        what: bytes[4],
        value: bytes[5],
        extra: u16_at(bytes, 6),
    }
}

/// The parts' content while it is worked on.
struct Bench {
    image: &'static Image,
    parts: &'static [Part],
    /// Content where it was changed.
    content: Vec<Option<Vec<u8>>>,
    /// Whether an edit, not a repair, changed it.
    edited: Vec<bool>,
    /// Who opens and seals, if the content is plain text of what is sealed.
    sealer: Option<Sealer>,
}

impl Bench {
    fn new(image: &'static Image, parts: &'static [Part], sealer: Option<Sealer>) -> Self {
        Self { image, parts, content: vec![None; parts.len()], edited: vec![false; parts.len()], sealer }
    }

    fn original(&self, part: usize) -> Vec<u8> {
        let part = &self.parts[part];
        let (drive, at) = part.copies[0];
        let mut bytes = vec![0; part.blocks as usize * BLOCK_BYTES];
        self.image.drives[drive].read_into(at, &mut bytes).expect("inside the drive");
        bytes
    }

    fn content(&mut self, part: usize) -> &mut Vec<u8> {
        if self.content[part].is_none() {
            let mut text = self.original(part);
            if let Some(sealer) = self.sealer {
                sealer.open(self.parts[part].form, &mut text, self.parts[part].has);
            }
            self.content[part] = Some(text);
        }
        self.content[part].as_mut().expect("just put there")
    }

    fn edit(&mut self, edit: &Edit) {
        let part = edit.part % self.parts.len();
        let other = usize::from(edit.extra) % self.parts.len();
        let source = self.content(other).clone();
        self.edited[part] = true;
        let bytes = self.content(part);
        let length = bytes.len();
        let at = edit.at % used(bytes);
        let value = edit.value;
        match edit.what % 8 {
            0 => bytes[at] = value,
            1 => bytes[at] ^= 1 << (value % 8),
            2 => bytes[at] = bytes[at].wrapping_add(value),
            3 => {
                let at = (at / 8 * 8).min(length - 8);
                let shift = u32::from(value % 64);
                put_u64(bytes, at, (u64::MAX >> shift).wrapping_add(u64::from(edit.extra % 3)));
            }
            4 => {
                let at = at / 32 * 32;
                let from = usize::from(value) * 32 % source.len();
                let count = 32.min(length - at).min(source.len() - from);
                bytes[at..at + count].copy_from_slice(&source[from..from + count]);
            }
            5 => bytes.fill(0),
            6 => {
                let count = length.min(source.len());
                bytes[..count].copy_from_slice(&source[..count]);
            }
            _ => bytes[at..].fill(value),
        }
    }

    /// Makes the checks right from the bottom up.
    fn repair(&mut self) {
        for index in (0..self.parts.len()).rev() {
            if self.content[index].is_none() {
                continue;
            }
            let check = self.seal(index);
            match self.parts[index].check {
                At::Elsewhere => {}
                At::Own => {
                    let bytes = self.content(index);
                    let check = Check::of(&bytes[..OWN_CHECK]);
                    put_check(bytes, OWN_CHECK, check);
                }
                At::In(parent, at) => {
                    put_check(self.content(parent), at + 16, check);
                }
                At::InSuperblocks(at) => {
                    let newest: Vec<usize> = (0..index).filter(|i| self.parts[*i].newest).collect();
                    newest.into_iter().for_each(|slot| put_check(self.content(slot), at + 16, check));
                }
                At::Commit(next) => self.repair_commit(index, next),
            }
        }
    }

    /// Seals a part, if it was opened; its check.
    fn seal(&mut self, index: usize) -> Check {
        let (sealer, form) = (self.sealer, self.parts[index].form);
        let bytes = self.content(index);
        match sealer {
            Some(sealer) => sealer.seal(form, bytes),
            None => Check::of(bytes),
        }
    }

    fn repair_commit(&mut self, index: usize, next: Option<usize>) {
        let bytes = self.content(index);
        let end = HEADER_BYTES + (u32_at(bytes, H_BODY_BYTES) as usize).min(MAX_BODY_BYTES);
        let end = end.min(bytes.len());
        put_check(bytes, H_CHECK, Check::NONE);
        let check = Check::of(&bytes[..end]);
        put_check(bytes, H_CHECK, check);
        if let Some(next) = next {
            put_check(self.content(next), H_PREVIOUS, check);
        }
    }

    fn put_together(mut self, mode: Mode) -> Damaged {
        let mut damaged = Damaged {
            image: self.image,
            mode,
            drives: self.image.drives.clone(),
            poisoned: HashSet::new(),
            kinds: Vec::new(),
        };
        for index in 0..self.parts.len() {
            let Some(content) = self.content[index].take() else { continue };
            let part = &self.parts[index];
            if self.edited[index] && content != self.original(index) {
                damaged.kinds.push(part.kind);
                let check = Check::of(&content);
                if part.kind == PartKind::Data && !known_content(self.image).contains(&check) {
                    damaged.poisoned.insert(check);
                }
            }
            for copy in &part.copies {
                if wanted(mode, copy.0, self.image) {
                    write(&mut damaged.drives[copy.0], copy.1, &content);
                }
            }
        }
        damaged.kinds.sort_unstable();
        damaged.kinds.dedup();
        damaged
    }
}

/// The front of a part that says something: most blocks are mostly zeroes, and an edit there is soon refused. The check
/// at the end of a block does not count.
fn used(bytes: &[u8]) -> usize {
    let front = &bytes[..bytes.len().min(OWN_CHECK)];
    let last = front.iter().rposition(|byte| *byte != 0).unwrap_or(0);
    (last + 1).next_multiple_of(32)
}

/// Checks of all that a guest block of an image ever held: such content is right somewhere.
fn known_content(image: &Image) -> HashSet<Check> {
    let versions = image.versions.iter().enumerate();
    let all = versions.flat_map(|(lba, versions)| versions.iter().map(move |version| (lba as u64, *version)));
    all.map(|(lba, version)| Check::of(&content(lba, version))).collect()
}

/// Whether a copy is damaged. What belongs to one drive has one copy, on the leg of that drive.
fn wanted(mode: Mode, drive: usize, image: &Image) -> bool {
    match mode {
        Mode::OneLeg(leg) => drive / usize::from(image.columns) == usize::from(leg),
        _ => true,
    }
}

fn write(drive: &mut MemoryMedia, at: DriveBlock, content: &[u8]) {
    for (i, block) in content.chunks_exact(BLOCK_BYTES).enumerate() {
        let at = at + Blocks::new(i as u64);
        drive.content.insert(at.get(), Box::new(block.try_into().expect("a block")));
    }
}
