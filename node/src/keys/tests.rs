//! Wrapping by the keys of a catalogue, and envelopes that are not what they were.
use super::*;
use crate::catalogue::{Embedded, KeyVersion};
use std::sync::Arc;

const GROUP: Uuid = Uuid([7; 16]);

fn keys(folder: &std::path::Path) -> Keys {
    let store = Store::new(Arc::new(Embedded::open(&folder.join("c")).expect("opens")));
    let keys = Keys::new(store.clone(), folder.join("keys"));
    for name in ["k", "l"] {
        let record = KeyRecord {
            name: name.into(),
            provider: ProviderKind::File,
            created_at: String::new(),
            life: KeyLife::Ready,
            versions: vec![KeyVersion { version: 1, created_at: String::new(), sealed: None }],
            last_version: 1,
            transit: None,
        };
        keys.provider(&record).make(1).expect("makes");
        store.txn().put(key_key(name), &record).commit().expect("commits");
    }
    keys
}

fn refused(outcome: Result<Secret>) -> String {
    let error = outcome.expect_err("refused");
    assert_eq!(error.kind, Kind::Permission, "{error}");
    error.to_string()
}

#[test]
fn a_secret_of_every_length_comes_back() {
    let folder = tempfile::tempdir().expect("folder");
    let keys = keys(folder.path());
    for len in [1, 63, 64, 65, 200, MAX_GROUP_SECRET_BYTES] {
        let secret = seal::random_secret(len).expect("random");
        let envelope = keys.wrap("k", &GROUP, &secret).expect("wraps");
        assert!(envelope.encode().len() <= MAX_ENVELOPE_BYTES);
        assert!(keys.unwrap(&envelope, &GROUP).expect("opens").same(secret.expose()));
    }
    for len in [0, MAX_GROUP_SECRET_BYTES + 1] {
        assert_eq!(keys.wrap("k", &GROUP, &Secret::zeroed(len)).expect_err("refused").kind, Kind::Invalid);
    }
    assert_eq!(keys.wrap("m", &GROUP, &Secret::zeroed(64)).expect_err("none").kind, Kind::NotFound);
}

#[test]
fn the_wrong_group_key_version_and_provider_are_refused() {
    let folder = tempfile::tempdir().expect("folder");
    let keys = keys(folder.path());
    let envelope = keys.wrap("k", &GROUP, &Secret::copy_of(&[1; 64])).expect("wraps");
    assert!(
        refused(keys.unwrap(&envelope, &Uuid([8; 16]))).contains("does not open the secret of group 0808")
    );
    let with = |change: fn(&mut Envelope)| {
        let mut other = envelope.clone();
        change(&mut other);
        keys.unwrap(&other, &GROUP)
    };
    assert!(refused(with(|envelope| envelope.key = "l".into())).contains("it is another key"));
    assert!(refused(with(|envelope| envelope.version = 2)).contains("not there"));
    assert!(refused(with(|envelope| envelope.provider = ProviderKind::Keyring)).contains("not there"));
}

/// With the check made right again, so that nothing but the wrapping stands against it.
#[test]
fn no_byte_of_what_is_wrapped_can_be_changed() {
    let folder = tempfile::tempdir().expect("folder");
    let keys = keys(folder.path());
    let secret = Secret::copy_of(&[1; 64]);
    let envelope = keys.wrap("k", &GROUP, &secret).expect("wraps");
    for at in 0..envelope.wrapped.len() {
        let mut other = envelope.clone();
        other.wrapped[at] ^= 1;
        let read = Envelope::decode(&other.encode()).expect("an envelope");
        refused(keys.unwrap(&read, &GROUP));
    }
    let bytes = envelope.encode();
    for at in 0..bytes.len() {
        let mut other = bytes.clone();
        other[at] ^= 1;
        assert!(Envelope::decode(&other).is_err(), "byte {at}");
    }
}
