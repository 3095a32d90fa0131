//! Grants on their way to a real engine, over drives in files.
use super::*;
use crate::agent::testing;
use crate::catalogue::{DriveRecord, RowRecord};
use crate::params::{AddDrives, Labels};
use crate::target::serve::LOOK_DEADLINE;
use crate::target::serve::device::tests::{Told, serve, spec};
use crate::target::{Note, Serving};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

/// How long a test looks at something that is not to happen.
const A_WHILE: Duration = Duration::from_millis(500);
/// How long a test waits for what is to happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// A volume of one leg that is served, and the grant that moves its home extent to a drive that is open for that.
fn to_be_moved(folder: &Path) -> (Arc<Glue>, Receiver<Note>, MoveGrant) {
    let spec = spec(folder);
    let agent = testing::agent(folder);
    let new = folder.join("new");
    std::fs::File::create(&new).expect("creates").set_len(256 << 20).expect("sizes");
    let added = AddDrives { drives: vec![new], labels: Labels::default(), force: false };
    agent.add_drives("pool-of-v", &added, false).expect("adds");
    let rows = agent.store.list::<RowRecord>("rows/").expect("reads");
    let (from, old) = rows[0].extents[0].clone();
    let drives = agent.store.list::<DriveRecord>("drives/").expect("reads");
    let to = drives.iter().find(|drive| drive.id != from).expect("two drives").record.clone();
    drop(agent);
    let (glue, heard) = serve(folder, spec, &Arc::new(Told::default()));
    glue.open_successor(&MoveDrive { id: to.id.clone(), path: to.path }).expect("opens");
    let OpenDrive { uuid, number, blocks, volatile, .. } = glue.open.get(&to.id).expect("it is open");
    let grant = MoveGrant {
        change: Change::Leave(parse_id(&from).expect("an id")),
        to: vec![NewDrive { uuid, handle: number, blocks, volatile }],
        extents: vec![(ExtentNo::new(old), 0, ExtentNo::new(0))],
    };
    (Arc::new(glue), heard, grant)
}

fn moving(glue: &Glue) -> Option<MoveOutcome> {
    let seen = glue.look(|engine| engine.volume().stats().and_then(|stats| stats.moving));
    seen.expect("answers").map(|moving| moving.outcome)
}

/// Answers the engine, until its move is over; how.
fn ends(glue: &Glue, heard: &Receiver<Note>) -> MoveOutcome {
    let start = Instant::now();
    loop {
        for note in heard.try_iter() {
            match note {
                Note::StoreStale { version, .. } => glue.stale_stored(version),
                Note::StoreCurrent { version, .. } => glue.current_stored(version),
                _ => {}
            }
        }
        match moving(glue) {
            Some(outcome) if outcome != MoveOutcome::Copying => return outcome,
            other => assert!(start.elapsed() < PATIENCE, "{other:?}"),
        }
        std::thread::sleep(AGAIN);
    }
}

/// A loop was caught while it was handed a move. The agent heard that it was given up, and freed the extents of the
/// successors; then the loop came to it, and the engine moved into what another group had by now.
#[test]
fn a_move_that_was_said_to_be_given_up_does_not_begin_later() {
    let folder = tempfile::tempdir().expect("a folder");
    let (glue, _heard, grant) = to_be_moved(folder.path());
    let (go_on, caught) = channel::<()>();
    glue.handle.with_engine(move |_| {
        let _ = caught.recv();
    });
    assert_eq!(glue.hand_grant(&grant).expect_err("the loop is caught").kind, Kind::Busy);
    go_on.send(()).expect("it waits");
    // The loop does in order what it is asked to do.
    assert_eq!(moving(&glue), None);
    glue.handle.stop();
}

/// What the loop has begun cannot be taken back: whoever asked for it hears what came of it, however late.
#[test]
fn whoever_asked_for_what_the_loop_has_begun_hears_of_its_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let (glue, _heard, _) = to_be_moved(folder.path());
    let slowly = |_: &mut Engine| std::thread::sleep(LOOK_DEADLINE + A_WHILE);
    assert_eq!(glue.look(slowly), Some(()));
    glue.handle.stop();
}

/// A move off a drive was taken for the one that was handed over, because that one leaves the same drive: its successors
/// were others, and what the agent heard of as copied and done had never begun.
#[test]
fn a_move_is_not_taken_for_another_one_off_the_same_drive() {
    let folder = tempfile::tempdir().expect("a folder");
    let (glue, heard, grant) = to_be_moved(folder.path());
    glue.hand_grant(&grant).expect("begins");
    // Nobody answers the engine: the move does not end.
    let mut other = grant.clone();
    other.extents[0].2 = ExtentNo::new(1);
    let (taken, told) = channel();
    let handing = std::thread::spawn({
        let glue = glue.clone();
        move || taken.send(glue.hand_grant(&other))
    });
    assert!(told.recv_timeout(A_WHILE).is_err(), "the first one is still under way");
    assert_eq!(moving(&glue), Some(MoveOutcome::Copying));
    ends(&glue, &heard);
    told.recv_timeout(PATIENCE).expect("it is its turn now").expect("the engine takes it");
    handing.join().expect("no panic").expect("heard");
    assert_eq!(ends(&glue, &heard), MoveOutcome::GivenUp(MoveRefusal::Misfit), "nothing is left to move");
    glue.handle.stop();
}
