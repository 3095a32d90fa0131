//! The keys of encrypted images, and how their blocks are sealed, so that an edit can be behind every code: what reads an
//! image then looks at what somebody says who has the keys.
//!
//! An image has one activation. Written from the format's page, apart from the engine.
use base::{Aead, Block, Check, Ciphers, CkptNo, CommitNo, Nonce, Pba, Tag, Uuid, codec};
use plinth_check::Keyring;
use rlog::Line;
use rlog::layout::{H_BODY_BYTES, H_CHECK, H_COMMIT, H_TAG, HEADER_BYTES, LINE_BYTES};
use volume::keys::portable::Portable;
use volume::keys::{Class, GroupKeys, mac};
use volume::layout::{OWN_CHECK, superblock as at};

/// The keys of all encrypted images.
pub fn keys() -> GroupKeys {
    GroupKeys { data: vec![(1, [0xd1; 32].into())], metadata: [0x3e; 32].into(), ciphers: Box::new(Portable) }
}

/// Has the keys of every group.
pub struct Ring;

impl Keyring for Ring {
    fn keys_of(&self, _: Uuid) -> Option<GroupKeys> {
        Some(keys())
    }
}

/// How a part is sealed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// Not at all.
    Plain,
    /// A superblock, with a code over it.
    Superblock,
    /// A row or history page, with a code as its check.
    Home,
    /// A page or bitmap that lies there, of that checkpoint.
    Page(CkptNo, Pba),
    /// A commit.
    Commit,
}

/// Seals what an image's activation seals.
#[derive(Clone, Copy, Debug)]
pub struct Sealer {
    group: Uuid,
    line: Line,
}

impl Sealer {
    /// Of the activation that a superblock names.
    pub const fn new(group: Uuid, line: Line) -> Self {
        Self { group, line }
    }

    fn cipher(&self, class: Class) -> Box<dyn Aead> {
        let mut cipher = Portable.cipher();
        cipher.set_key(&keys().derive(class, self.group, &self.line).expect("the only data key"));
        cipher
    }

    /// The text of a part that the engine sealed.
    pub fn open(&self, form: Form, bytes: &mut [u8], check: Check) {
        let opened = match form {
            Form::Plain | Form::Superblock | Form::Home => true,
            Form::Page(ckpt, pba) => {
                self.cipher(Class::Pages).open(&Nonce::page(ckpt, pba), &[], bytes, &check.tag())
            }
            Form::Commit => {
                let nonce = Nonce::commit(CommitNo::new(codec::u64_at(bytes, H_COMMIT)));
                let (header, body) = parts(bytes);
                let tag = Tag(header[H_TAG..H_TAG + 12].try_into().expect("twelve bytes"));
                self.cipher(Class::Commits).open(&nonce, &header[..H_CHECK], body, &tag)
            }
        };
        assert!(opened, "the engine seals otherwise than the format says: {form:?}");
    }

    /// Seals a part in place. What is returned is the check of a page; other parts hold their own.
    pub fn seal(&self, form: Form, bytes: &mut [u8]) -> Check {
        match form {
            Form::Plain => Check::of(bytes),
            Form::Superblock => {
                let line = Line::decode(&bytes[at::LINE_AT..at::LINE_AT + LINE_BYTES]).unwrap_or(Line::NONE);
                let group = codec::uuid_at(bytes, at::GROUP_AT);
                let key = keys().derive(Class::Superblock, group, &line).expect("of the metadata key");
                let code = mac(&key, &[&bytes[..at::CODE_AT]]);
                bytes[at::CODE_AT..OWN_CHECK].copy_from_slice(&code);
                Check(code)
            }
            Form::Home => Check(mac(&keys().home_pages(self.group), &[bytes])),
            Form::Page(ckpt, pba) => {
                let tag = self.cipher(Class::Pages).seal(&Nonce::page(ckpt, pba), &[], bytes);
                Check::sealed(tag, bytes)
            }
            Form::Commit => {
                let nonce = Nonce::commit(CommitNo::new(codec::u64_at(bytes, H_COMMIT)));
                let (header, body) = parts(bytes);
                let tag = self.cipher(Class::Commits).seal(&nonce, &header[..H_CHECK], body);
                header[H_TAG..H_TAG + 12].copy_from_slice(&tag.0);
                Check::NONE
            }
        }
    }

    /// A page as a block.
    pub fn open_page(&self, block: &mut Block, ckpt: CkptNo, pba: Pba, check: Check) {
        self.open(Form::Page(ckpt, pba), block, check);
    }
}

/// Header and body of a commit, as far as there are bytes.
fn parts(bytes: &mut [u8]) -> (&mut [u8], &mut [u8]) {
    let end = HEADER_BYTES.saturating_add(codec::u32_at(bytes, H_BODY_BYTES) as usize).min(bytes.len());
    let (header, rest) = bytes.split_at_mut(HEADER_BYTES);
    (header, &mut rest[..end - HEADER_BYTES])
}
