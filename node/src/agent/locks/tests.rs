//! Who waits for whom, and what becomes of a catalogue that fails under a verb.
use super::*;
use crate::agent::testing::{self, agent, options, pool_on, volume_in};
use crate::catalogue::embedded::faulty::{Medium, on};
use crate::catalogue::{Attachment, FrontendKind, Severity};
use crate::drives::{Hang, Media};
use crate::error::Result;
use crate::model::Health;
use crate::params::ImportPool;
use crate::target::marks::Mark;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

/// How long a test waits for what must not wait, before it says that it does.
const HOPELESS: Duration = Duration::from_secs(120);

/// Notes that a volume is attached and was served.
fn attach(agent: &Agent, name: &str) {
    let served = Attachment {
        frontend: FrontendKind::Nbd,
        nbd_socket: Some("/none".into()),
        served: true,
        ..testing::ublk_attachment()
    };
    testing::attach(agent, name, served);
}

/// All that a running guest of volume `v` may need, and a look at how things stand.
fn serve(agent: &Agent) -> Result<()> {
    let group = agent.group("v")?;
    agent.prepare_activation("v")?;
    agent.note_serving("v", None, Some(1))?;
    let row = group.rows_used;
    let granted = agent.want_row("v", row, None)?;
    // The next target does not use it, and gets another one.
    let other = agent.want_row("v", row, Some(granted.grant))?;
    assert_ne!(granted.extents, other.extents, "what was refused is not free yet");
    let drive = group.copies[0].drive.clone();
    agent.note_mark("v", &Mark::current(drive, 1), Some(1))?;
    assert_eq!(agent.view_status()?.volumes.len(), 1);
    agent.show_pool("p")?;
    agent.list_groups().map(drop)
}

/// `pool import` read the drives of its pool while everybody waited for it: guests of other pools were told that there is
/// no space, and a target that died was not followed. The drive hangs at its first operation (the scan), and later (the
/// headers of its extents).
#[test]
fn a_drive_that_hangs_in_an_import_stops_nobody_else() {
    for operations in [0, 3, 12, 200] {
        let folder = tempfile::tempdir().expect("folder");
        std::fs::create_dir(folder.path().join("targets")).expect("makes");
        std::fs::create_dir(folder.path().join("groups")).expect("makes");
        let agent = agent(folder.path());
        let hanging = folder.path().join("q");
        pool_on(&agent, folder.path().join("p"), "p");
        pool_on(&agent, hanging.clone(), "q");
        agent.create_volume(&volume_in("v", "p"), false).expect("creates");
        agent.export_pool("q", false).expect("exports");
        attach(&agent, "v");
        let hang = Hang::behind(operations, Media::open_read(&hanging).expect("opens").identity());
        let (importer, params) =
            (agent.clone(), ImportPool { pool: None, drives: vec![hanging], force: false });
        let import = std::thread::spawn(move || importer.import_pool(&params, false));
        while !hang.is_met() {
            assert!(!import.is_finished(), "{:?}", import.join());
            std::thread::yield_now();
        }
        let (done, served) = channel();
        let server = agent.clone();
        std::thread::spawn(move || done.send(serve(&server)));
        let served =
            served.recv_timeout(HOPELESS).expect("it waits for a drive of another pool, or has failed");
        served.expect("serves");
        assert!(!import.is_finished(), "the import waits for its drive");
        drop(hang);
        let imported = import.join().expect("no panic").expect("imports");
        assert_eq!(imported[0].name, "q");
        // What was refused is wiped and free as soon as a verb comes to it.
        assert!(!agent.group("v").expect("is there").unwiped.is_empty());
        agent.settle_drives().expect("settles");
        assert!(agent.group("v").expect("is there").unwiped.is_empty());
    }
}

/// Two verbs at a time would undo each other; a verb that is aside is still one.
#[test]
fn a_verb_that_is_aside_keeps_other_verbs_out_and_nobody_else() {
    let folder = tempfile::tempdir().expect("folder");
    let agent = agent(folder.path());
    let mut verb = agent.lock();
    let (there, other) = (channel(), agent.clone());
    let waits = verb.aside(|| {
        let waits = std::thread::spawn(move || {
            drop(other.records());
            there.0.send(()).expect("is heard");
            drop(other.lock());
        });
        there.1.recv_timeout(HOPELESS).expect("the lock of records is free");
        assert!(agent.verbs.try_lock().is_err());
        waits
    });
    drop(verb);
    waits.join().expect("no panic");
}

/// The state folder was full while a volume was made or got a row, at each write of it. What was answered with an error may
/// be there: the next one must not be given the same extents for ever.
#[test]
fn a_catalogue_that_failed_once_stops_nobody_when_it_works_again() {
    let mut failures = 0;
    // Each other one is done all the same; `catalogue/embedded/tests.rs` takes every one of one transaction.
    for done in [false, true] {
        for changes in (u32::from(done)..).step_by(2) {
            let folder = tempfile::tempdir().expect("folder");
            let medium = Medium::default();
            let agent = Agent::over(options(folder.path()), Arc::new(on(&medium))).expect("opens");
            pool_on(&agent, folder.path().join("p"), "p");
            agent.create_volume(&volume_in("w", "p"), false).expect("creates");
            medium.fail_behind(changes, done);
            let made = agent.create_volume(&volume_in("v", "p"), false);
            let granted = agent.grant_row("w", 1, None);
            if !medium.has_failed() {
                made.expect("creates");
                granted.expect("grants");
                break;
            }
            failures += 1;
            match agent.view_status() {
                Ok(status) => {
                    assert_eq!(status.health, Health::Faulted, "it says so: {status:?}");
                    assert!(status.status.is_some_and(|why| why.contains("catalogue")));
                }
                Err(error) => assert!(error.message.contains("catalogue") || error.hint.is_some(), "{error}"),
            }
            medium.heal();
            agent.store.check().expect("works again");
            agent.create_volume(&volume_in("v", "p"), false).expect("is finished by its repetition");
            agent.grant_row("w", 1, None).expect("grants");
            agent.grant_row("v", 1, None).expect("grants another");
            assert_eq!(agent.view_status().expect("reads").health, Health::Online);
            let taken = agent.store.keys("extents/").expect("lists").len();
            let space = agent.records();
            let drive = &agent.pool_drives(&agent.pool("p").expect("is there")).expect("lists")[0];
            assert_eq!((taken, space.taken(&drive.id)), (4, 4), "nothing is taken by nobody");
            drop(space);
            agent.events.record(Severity::Info, "k", "o", "m");
            let ids: Vec<u64> =
                agent.events.list(&Default::default()).expect("lists").iter().map(|event| event.id).collect();
            assert!(ids.windows(2).all(|pair| pair[0] < pair[1]));
        }
    }
    assert!(failures > 20, "{failures} writes failed");
}
