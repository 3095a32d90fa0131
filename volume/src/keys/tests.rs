//! What is derived from keys, byte for byte; codes; ciphers of many activations.
use super::portable::Portable;
use super::*;
use base::{CommitNo, Gen, Nonce, Seq};

fn keys() -> GroupKeys {
    let data = alloc::vec![(1, Zeroizing::new([1; KEY_BYTES])), (2, Zeroizing::new([2; KEY_BYTES]))];
    GroupKeys { data, metadata: Zeroizing::new([3; KEY_BYTES]), ciphers: Box::new(Portable) }
}

fn line(n: u8, key: u16) -> Line {
    Line {
        first_seq: Seq::new(1),
        first_commit: CommitNo::ZERO,
        generation: Gen::new(u64::from(n)),
        id: Uuid([n; 16]),
        salt: [n; 16],
        first_ckpt: base::CkptNo::new(1),
        key,
    }
}

const GROUP: Uuid = Uuid([9; 16]);

/// What is derived is part of the format.
#[test]
fn golden() {
    let hex =
        |key: &[u8]| key.iter().map(|byte| alloc::format!("{byte:02x}")).collect::<alloc::string::String>();
    let key = keys().derive(Class::Data, GROUP, &line(7, 2)).expect("at hand");
    // Computed with Python's hmac and hashlib, by RFC 5869.
    assert_eq!(hex(&key[..]), GOLDEN_DATA);
    assert_eq!(hex(&keys().home_pages(GROUP)[..]), GOLDEN_HOME);
    assert_eq!(hex(&mac(&Zeroizing::new([5; KEY_BYTES]), &[b"one", b"two"])), GOLDEN_MAC);
}

const GOLDEN_DATA: &str = "b88fd4c60819b18eb3b7277670cb5eab3ec43b1a68310c5d3f51e763c90880c1";
const GOLDEN_HOME: &str = "82c11f141b7ca5127bebd2fa3de660ed72ba067e6951612aeb99957d68b8bc53";
const GOLDEN_MAC: &str = "1db52d59778912f81f5b889275044d0d";

#[test]
fn every_class_group_activation_and_key_is_its_own() {
    let keys = keys();
    let mut all = Vec::new();
    for group in [GROUP, Uuid([8; 16])] {
        for line in [line(1, 1), line(2, 1), line(1, 2)] {
            for class in [Class::Data, Class::Pages, Class::Commits, Class::Superblock] {
                all.push(*keys.derive(class, group, &line).expect("at hand"));
            }
        }
        all.push(*keys.home_pages(group));
    }
    all.sort_unstable();
    all.dedup();
    // The metadata's do not depend on the data key's number.
    assert_eq!(all.len(), 2 * (3 * 4 - 3 + 1));
    assert!(keys.derive(Class::Data, GROUP, &line(1, 3)).is_none(), "no such key");
}

#[test]
fn a_code_is_of_the_whole_message() {
    let key = Zeroizing::new([5; KEY_BYTES]);
    let code = mac(&key, &[b"one", b"two"]);
    assert!(mac_fits(&key, &[b"onetwo"], &code), "pieces are laid end to end");
    assert!(!mac_fits(&key, &[b"onetwp"], &code));
    assert!(!mac_fits(&Zeroizing::new([6; KEY_BYTES]), &[b"onetwo"], &code));
}

#[test]
fn more_activations_than_places_are_each_opened_with_their_own_keys() {
    let mut sessions = Sessions::new(keys(), GROUP);
    let nonce = Nonce::commit(CommitNo::new(1));
    let mut sealed = Vec::new();
    for n in 1..60 {
        let mut text = [n; 32];
        let tag = sessions.cipher(Class::Data, &line(n, 1)).expect("at hand").seal(&nonce, &[], &mut text);
        sealed.push((n, text, tag));
    }
    for (n, text, tag) in sealed.into_iter().rev() {
        let opens = |sessions: &mut Sessions, class, n| {
            let mut text = text;
            let opened =
                sessions.cipher(class, &line(n, 1)).expect("at hand").open(&nonce, &[], &mut text, &tag);
            assert!(!opened || text == [n; 32]);
            opened
        };
        assert!(opens(&mut sessions, Class::Data, n));
        assert!(!opens(&mut sessions, Class::Data, n + 1) && !opens(&mut sessions, Class::Pages, n));
    }
}
