//! Keys of the groups of a world, and how their blocks are sealed: written from the format's page, apart from the engine,
//! so that a test can put a lie behind right codes.
use base::{Aead, Block, Check, Ciphers, CkptNo, CommitNo, Nonce, Pba, Tag, Uuid, codec};
use plinth_check::Keyring;
use rlog::Line;
use rlog::layout::{H_BODY_BYTES, H_CHECK, H_COMMIT, H_HISTORY, H_TAG, HEADER_BYTES, LINE_BYTES};
use volume::keys::portable::Portable;
use volume::keys::{Class, GroupKeys, mac};
use volume::layout::OWN_CHECK;
use volume::layout::superblock as at;

/// The keys that the groups of a world have, but for these bytes.
fn keys(data: u8, metadata: u8) -> GroupKeys {
    let data = vec![(1, [data; 32].into())];
    GroupKeys { data, metadata: [metadata; 32].into(), ciphers: Box::new(Portable) }
}

pub fn right() -> GroupKeys {
    keys(0xd1, 0x3e)
}

/// Has the right keys of every group.
pub struct Right;

impl Keyring for Right {
    fn keys_of(&self, _: Uuid) -> Option<GroupKeys> {
        Some(right())
    }
}

/// Has keys of which these are others: data, metadata, and the data key by its number.
pub struct Wrong {
    pub data: bool,
    pub metadata: bool,
    pub number: u16,
}

impl Keyring for Wrong {
    fn keys_of(&self, _: Uuid) -> Option<GroupKeys> {
        let mut keys = keys(if self.data { 0xd2 } else { 0xd1 }, if self.metadata { 0x3f } else { 0x3e });
        keys.data[0].0 = self.number;
        Some(keys)
    }
}

fn cipher(class: Class, group: Uuid, line: &Line) -> Box<dyn Aead> {
    let mut cipher = Portable.cipher();
    cipher.set_key(&right().derive(class, group, line).expect("the only data key"));
    cipher
}

/// Makes the code of a superblock right, then its own check.
pub fn seal_superblock(block: &mut Block) {
    let group = codec::uuid_at(&block[..], at::GROUP_AT);
    let line = Line::decode(&block[at::LINE_AT..at::LINE_AT + LINE_BYTES]).unwrap_or(Line::NONE);
    let key = right().derive(Class::Superblock, group, &line).expect("of the metadata key");
    let code = mac(&key, &[&block[..at::CODE_AT]]);
    block[at::CODE_AT..OWN_CHECK].copy_from_slice(&code);
    let check = Check::of(&block[..OWN_CHECK]);
    codec::put_check(&mut block[..], OWN_CHECK, check);
}

/// The check of a row or history page.
pub fn home_check(group: Uuid, page: &Block) -> Check {
    Check(mac(&right().home_pages(group), &[page]))
}

/// The line of the activation that owns a checkpoint; any, if none does.
fn of_checkpoint(lines: &[Line], ckpt: CkptNo) -> Line {
    *lines.iter().rev().find(|line| line.first_ckpt <= ckpt).unwrap_or(&lines[0])
}

/// Opens a page in place; its text is anything if it is not what was sealed.
pub fn open_page(
    group: Uuid,
    lines: &[Line],
    page: &mut Block,
    pba: Pba,
    ckpt: CkptNo,
    check: Check,
) -> bool {
    let mut cipher = cipher(Class::Pages, group, &of_checkpoint(lines, ckpt));
    cipher.open(&Nonce::page(ckpt, pba), &[], page, &check.tag())
}

/// Seals a page in place.
pub fn seal_page(group: Uuid, lines: &[Line], page: &mut Block, pba: Pba, ckpt: CkptNo) -> Check {
    let mut cipher = cipher(Class::Pages, group, &of_checkpoint(lines, ckpt));
    let tag = cipher.seal(&Nonce::page(ckpt, pba), &[], page);
    Check::sealed(tag, page)
}

/// Opens or seals the body of a commit in place: with the same key stream either way, so one does both but for the tag.
fn commit_parts<'a>(
    lines: &[Line],
    bytes: &'a mut [u8],
) -> (Box<dyn Aead>, Nonce, &'a mut [u8], &'a mut [u8]) {
    let end = (HEADER_BYTES + codec::u32_at(bytes, H_BODY_BYTES) as usize).min(bytes.len());
    let id = codec::uuid_at(bytes, H_HISTORY);
    let group = codec::uuid_at(bytes, rlog::layout::H_GROUP);
    let line = *lines.iter().find(|line| line.id == id).unwrap_or(&lines[lines.len() - 1]);
    let nonce = Nonce::commit(CommitNo::new(codec::u64_at(bytes, H_COMMIT)));
    let (header, rest) = bytes.split_at_mut(HEADER_BYTES);
    (cipher(Class::Commits, group, &line), nonce, header, &mut rest[..end - HEADER_BYTES])
}

pub fn open_commit(lines: &[Line], bytes: &mut [u8]) {
    let (mut cipher, nonce, header, body) = commit_parts(lines, bytes);
    let tag = Tag(header[H_TAG..H_TAG + 12].try_into().expect("twelve bytes"));
    assert!(cipher.open(&nonce, &header[..H_CHECK], body, &tag), "a commit that the engine made");
}

/// Seals the body; the own check is the caller's.
pub fn seal_commit(lines: &[Line], bytes: &mut [u8]) {
    let (mut cipher, nonce, header, body) = commit_parts(lines, bytes);
    let tag = cipher.seal(&nonce, &header[..H_CHECK], body);
    header[H_TAG..H_TAG + 12].copy_from_slice(&tag.0);
}

/// Changes the last four bytes of a block so that it has the CRC-32C of this check, which anybody can: a CRC is linear.
pub fn forge_crc(block: &mut Block, check: Check) {
    let crc = |block: &Block| {
        let sealed = Check::sealed(check.tag(), block);
        u32::from_le_bytes(sealed.0[12..].try_into().expect("four bytes"))
    };
    let wanted = u32::from_le_bytes(check.0[12..].try_into().expect("four bytes"));
    block[4092..].fill(0);
    let base = crc(block);
    // What each bit of the last four bytes does to the CRC, brought to triangular form.
    let mut rows: Vec<(u32, u32)> = (0..32)
        .map(|bit| {
            let mut with = *block;
            with[4092 + bit / 8] |= 1 << (bit % 8);
            (crc(&with) ^ base, 1u32 << bit)
        })
        .collect();
    let (mut left, mut bits) = (wanted ^ base, 0);
    for bit in (0..32).rev() {
        let Some(pivot) = rows.iter().position(|(effect, _)| effect >> bit & 1 == 1) else { continue };
        let (effect, own) = rows.swap_remove(pivot);
        for row in rows.iter_mut().filter(|row| row.0 >> bit & 1 == 1) {
            *row = (row.0 ^ effect, row.1 ^ own);
        }
        if left >> bit & 1 == 1 {
            (left, bits) = (left ^ effect, bits ^ own);
        }
    }
    assert_eq!(left, 0, "every CRC can be had");
    block[4092..].copy_from_slice(&bits.to_le_bytes());
    assert!(check.crc_fits(block));
}
