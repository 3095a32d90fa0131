//! What a pool hands out, over a catalogue and drives in files: what it keeps back is nobody's.
use super::*;
use crate::agent::testing::{agent, pool, volume};

const EXTENT: u64 = 8 << 20;

/// Sets what the pool keeps back; how much is free above that.
fn reserve(agent: &Agent, bytes: u64) -> u64 {
    agent.set_pool("p", "reserve", &bytes.to_string(), false).expect("sets").free_bytes
}

/// Neither a volume nor a row gets what is kept back, and a refusal changes nothing; lowered, they get it.
#[test]
fn the_reserve_is_kept_from_volumes_and_rows() {
    let folder = tempfile::tempdir().expect("folder");
    let agent = agent(folder.path());
    pool(&agent, folder.path(), &["d1", "d2"]);
    agent.create_volume(&volume("v", 2), false).expect("creates");
    let free = reserve(&agent, 0);
    // One row of a mirror above the reserve.
    assert_eq!(reserve(&agent, free - 2 * EXTENT), 2 * EXTENT);
    agent.grant_row("v", 1, None).expect("a row above the reserve");
    let before = agent.show_pool("p").expect("shows");
    assert_eq!((before.free_bytes, before.reserved_bytes), (0, free - 2 * EXTENT));
    let refused = agent.grant_row("v", 2, None).expect_err("below the reserve");
    assert_eq!(refused.kind, Kind::NoSpace);
    assert!(refused.message.contains("no space left above its reserve"), "{refused}");
    for legs in [1, 2] {
        let refused = agent.create_volume(&volume("w", legs), false).expect_err("below the reserve");
        assert_eq!((refused.kind, refused.kind.exit_code()), (Kind::NoSpace, 7), "{refused}");
        assert!(refused.hint.is_some_and(|hint| hint.contains("plinth pool set p reserve=SIZE")));
    }
    assert_eq!(agent.show_pool("p").expect("shows"), before);
    // Not a byte of it: a reserve that ends within an extent is kept too.
    reserve(&agent, free - 4 * EXTENT + 1);
    assert_eq!(agent.grant_row("v", 2, None).expect_err("a byte short").kind, Kind::NoSpace);
    reserve(&agent, free - 4 * EXTENT);
    agent.grant_row("v", 2, None).expect("a row above the reserve");
    reserve(&agent, 0);
    agent.create_volume(&volume("w", 2), false).expect("creates");
}
