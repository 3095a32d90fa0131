//! Images of drives, small enough to keep: only what is not zero, block by block.
//!
//! `PLNTHIMG`, u8 legs, u8 columns, u8 extents handed out, u8 drives; u64 Gen; 16 bytes check of the volume's
//! content. Then per drive u64 blocks, u32 number of blocks kept; per block u32 its number, u16 number of runs; per
//! run u16 offset, u16 length, the bytes. `SAME` runs: the block is like one before it, u8 drive, u32 number (legs
//! hold the same). Little-endian.
use super::Drives;
use base::{BLOCK_BYTES, Check};
use plinth_check::MemoryMedia;
use std::collections::HashMap;

const MAGIC: &[u8; 8] = b"PLNTHIMG";
/// Zeroes shorter than this do not end a run.
const GAP: usize = 5;
/// Stands for a number of runs.
const SAME: u16 = u16::MAX;

/// The image of drives whose volume has this content.
pub fn encode(drives: &Drives, content: Check) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend([drives.legs, drives.columns, drives.extents as u8, drives.media.len() as u8]);
    out.extend(drives.generation.to_le_bytes());
    out.extend(content.0);
    let mut known: HashMap<Vec<u8>, (u8, u32)> = HashMap::new();
    for (drive, media) in drives.media.iter().enumerate() {
        let kept: Vec<_> = media.content.iter().filter(|(_, block)| block.iter().any(|b| *b != 0)).collect();
        out.extend(media.blocks.to_le_bytes());
        out.extend((kept.len() as u32).to_le_bytes());
        for (at, block) in kept {
            out.extend((*at as u32).to_le_bytes());
            if let Some((drive, at)) = known.get(&block[..]) {
                out.extend(SAME.to_le_bytes());
                out.push(*drive);
                out.extend(at.to_le_bytes());
                continue;
            }
            known.insert(block.to_vec(), (drive as u8, *at as u32));
            let runs = runs(&block[..]);
            out.extend((runs.len() as u16).to_le_bytes());
            for (start, end) in runs {
                out.extend((start as u16).to_le_bytes());
                out.extend(((end - start) as u16).to_le_bytes());
                out.extend(&block[start..end]);
            }
        }
    }
    out
}

fn runs(block: &[u8]) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for (i, _) in block.iter().enumerate().filter(|(_, byte)| **byte != 0) {
        match runs.last_mut() {
            Some((_, end)) if i < *end + GAP => *end = i + 1,
            _ => runs.push((i, i + 1)),
        }
    }
    runs
}

/// The drives of an image, and the check of the volume's content.
pub fn decode(image: &[u8]) -> (Drives, Check) {
    let mut rest = image;
    let mut take = |count: usize| {
        let (bytes, behind) = rest.split_at(count);
        rest = behind;
        bytes
    };
    assert_eq!(take(8), MAGIC);
    let shape: [u8; 4] = take(4).try_into().expect("four");
    let generation = u64::from_le_bytes(take(8).try_into().expect("eight"));
    let content = Check(take(16).try_into().expect("sixteen"));
    let mut media: Vec<MemoryMedia> = Vec::new();
    for _ in 0..shape[3] {
        let blocks = u64::from_le_bytes(take(8).try_into().expect("eight"));
        let mut one = MemoryMedia { blocks, ..MemoryMedia::default() };
        for _ in 0..u32::from_le_bytes(take(4).try_into().expect("four")) {
            let at = u32::from_le_bytes(take(4).try_into().expect("four"));
            let mut block = Box::new([0; BLOCK_BYTES]);
            let runs = u16::from_le_bytes(take(2).try_into().expect("two"));
            if runs == SAME {
                let drive = usize::from(take(1)[0]);
                let like = u64::from(u32::from_le_bytes(take(4).try_into().expect("four")));
                let block = media.get(drive).unwrap_or(&one).content[&like].clone();
                one.content.insert(u64::from(at), block);
                continue;
            }
            for _ in 0..runs {
                let start = usize::from(u16::from_le_bytes(take(2).try_into().expect("two")));
                let length = usize::from(u16::from_le_bytes(take(2).try_into().expect("two")));
                block[start..start + length].copy_from_slice(take(length));
            }
            one.content.insert(u64::from(at), block);
        }
        media.push(one);
    }
    assert!(rest.is_empty(), "bytes behind the image");
    let drives = Drives {
        legs: shape[0],
        columns: shape[1],
        extents: u32::from(shape[2]),
        media,
        generation,
        encrypted: false,
    };
    (drives, content)
}
