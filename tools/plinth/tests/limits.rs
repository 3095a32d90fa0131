//! What a volume runs out of for good, as its operator sees it.
mod support;

use base::CkptNo;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::time::Instant;
use support::nbd::Nbd;
use support::{Agent, DEADLINE};
use volume::Superblock;

/// Sets the number of the last checkpoint in the superblocks of a group that was not attached yet.
fn set_checkpoint(path: &std::path::Path, number: u32) {
    let file = OpenOptions::new().read(true).write(true).open(path).expect("opens");
    for slot in [3, 4] {
        let mut block = [0; 4096];
        file.read_exact_at(&mut block, (256 + slot) * 4096).expect("reads");
        let (mut superblock, home) = Superblock::decode(&block).expect("a superblock");
        superblock.ckpt = CkptNo::new(number);
        file.write_all_at(&superblock.encode(home), (256 + slot) * 4096).expect("writes");
    }
}

/// A volume takes its last checkpoints, and is attached again: it cannot be written any more, says why, and everything in it
/// can be read.
#[test]
fn a_volume_without_further_checkpoints_attaches_for_reading() {
    let agent = Agent::start();
    agent.volume();
    for drive in ["d1", "d2"] {
        set_checkpoint(&agent.path(drive), u32::MAX - 64 - 22);
    }
    agent.plinth("volume attach v --nbd @n").ok();
    let mut nbd = Nbd::connect(&agent.path("n"));
    let data = vec![0x5a; 1 << 20];
    nbd.write(1 << 20, &data);
    nbd.flush();
    drop(nbd);
    let near = agent.plinth("volume show v -o json").json();
    assert_eq!(near["limits"][0]["kind"], "checkpoints", "{near}");
    assert!(
        near["health"] == "online"
            && near["status"].as_str().is_some_and(|s| s.contains("more, then it can"))
    );
    agent.plinth("volume detach v").ok();

    agent.plinth("volume attach v --nbd @n").ok();
    let ended = agent.wait_state("v", "read_only");
    assert_eq!(ended["limits"][0]["left"], 0, "{ended}");
    assert!(
        ended["status"].as_str().is_some_and(|status| status.contains("used up its checkpoints")),
        "{ended}"
    );
    assert!(ended["action"].as_str().is_some_and(|action| action.contains("new volume")), "{ended}");
    let mut nbd = Nbd::connect(&agent.path("n"));
    assert_eq!(nbd.read(1 << 20, data.len()), data);
    assert_ne!(nbd.try_write(0, &data), 0, "it was written");
    assert_eq!(nbd.read(0, 4096), vec![0; 4096]);
    drop(nbd);
    // The agent tells of it at its next look.
    let start = Instant::now();
    while !agent.plinth("events").ok().contains("numbers of checkpoints") {
        assert!(start.elapsed() < DEADLINE, "{}\n{}", agent.plinth("events").out, agent.log());
        std::thread::yield_now();
    }
    agent.plinth("volume detach v").ok();
}
