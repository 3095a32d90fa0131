//! Attachments in the catalogue, and what marks say.
use super::*;
use crate::agent::testing;
use crate::params::ResizeVolume;

/// A drive failed, was pulled out and put in again, and its target was killed while it got what it missed: the
/// next target was told the old mark again, and the drive counted as failed for ever.
#[test]
fn a_mark_that_is_heard_again_does_not_undo_what_was_forgiven() {
    let mut group = GroupRecord {
        id: "g".into(),
        name: "g".into(),
        pool: "p".into(),
        created_at: String::new(),
        life: crate::catalogue::Life::Ready,
        legs: 2,
        columns: 1,
        stripe_blocks: 16,
        home_blocks: None,
        gen_number: 1,
        rows_used: 1,
        copies: vec![super::super::volumes::current_copy("d")],
        grants: 0,
        moves: 0,
        legs_wanted: None,
        unwiped: Vec::new(),
        imported: false,
        uncertain: false,
        encryption: None,
        served_gen: None,
        stays: false,
    };
    let drives = vec!["d".to_owned()];
    let stale = |version, failed: bool| Mark {
        drives: drives.clone(),
        version,
        since: vec![(7, 3)],
        failed: if failed { drives.clone() } else { Vec::new() },
        current: false,
    };
    assert!(apply_mark(&mut group, &stale(5, true)));
    let copy = &group.copies[0];
    assert_eq!((copy.state, copy.failed, copy.stale_since_seq), (CopyState::Stale, true, Some(7)));
    // A target that recovers says it again, under a version of its own.
    assert!(!apply_mark(&mut group, &stale(9, false)));
    assert!(group.copies[0].failed);
    group.copies[0].failed = false;
    for (version, failed) in [(5, true), (9, false)] {
        apply_mark(&mut group, &stale(version, failed));
        assert!(!group.copies[0].failed, "version {version}");
    }
    apply_mark(&mut group, &Mark::current("d".into(), 10));
    assert_eq!(group.copies[0].state, CopyState::Current);
    assert!(apply_mark(&mut group, &stale(12, true)));
    assert!(group.copies[0].failed, "it failed anew");
    // The same mark again, right after it was forgiven.
    group.copies[0].failed = false;
    apply_mark(&mut group, &stale(12, true));
    assert!(!group.copies[0].failed);
}

/// The story: a drive that had been away failed while it was brought up to date. It was stale before and after, so that was
/// no news: it was handed back for ever, and no spare took its place.
#[test]
fn a_drive_that_fails_while_it_is_brought_up_to_date_has_failed() {
    let folder = tempfile::tempdir().expect("a folder");
    let agent = testing::agent(folder.path());
    testing::new_volume(&agent, folder.path(), "v");
    let drive = agent.group("v").expect("a group").copies[0].drive.clone();
    let mark = |version, failed: bool| Mark {
        drives: vec![drive.clone()],
        version,
        since: vec![(7, 3)],
        failed: if failed { vec![drive.clone()] } else { Vec::new() },
        current: false,
    };
    agent.note_mark("v", &mark(5, false), None).expect("it was away");
    agent.note_mark("v", &mark(9, true), None).expect("it failed operations");
    let copy = agent.group("v").expect("a group").copies[0].clone();
    assert!(copy.failed && copy.version == 9, "{copy:?}");
    assert_eq!(testing::told(&agent, "drive_stale").len(), 2, "that it failed is told");
    // It is back in another life; what was said of the last one does not count against it.
    let records = agent.records();
    assert!(agent.forgive_failure(&drive).expect("forgives"));
    drop(records);
    agent.note_mark("v", &mark(9, true), None).expect("is no news");
    assert!(!agent.group("v").expect("a group").copies[0].failed);
}

/// A detach that ended took the attachment away, and its supervision a moment later. An attach in between found no
/// attachment and made one, found a supervision and left it at that, and then that went: announced, and served by nobody.
#[tokio::test]
async fn an_attachment_goes_together_with_its_supervision() {
    let folder = tempfile::tempdir().expect("a folder");
    let agent = testing::agent(folder.path());
    testing::new_volume(&agent, folder.path(), "v");
    testing::attach(&agent, "v", testing::ublk_attachment());
    // What it begins runs only when this test waits for something.
    agent.supervisor.start(&agent, "v", "pool-of-v");
    assert!(agent.supervisor.live("v").is_some());
    agent.clear_attachment("v").expect("clears");
    assert!(agent.volume("v").expect("is there").record.attachment.is_none());
    assert!(agent.supervisor.live("v").is_none());
    // Also one that finds nothing to take away.
    agent.supervisor.start(&agent, "v", "pool-of-v");
    agent.clear_attachment("v").expect("clears");
    assert!(agent.supervisor.live("v").is_none());
}

/// The size was in the catalogue before the target said that its device cannot have it; the next target could not open the
/// device with it.
#[test]
fn a_device_that_this_kernel_cannot_resize_refuses_before_anything_changes() {
    let folder = tempfile::tempdir().expect("a folder");
    let agent = testing::agent(folder.path());
    testing::new_volume(&agent, folder.path(), "v");
    testing::attach(&agent, "v", testing::ublk_attachment());
    let grow = ResizeVolume { size_bytes: 1 << 20, relative: true };
    let possible = ublk_target::ublk::check_resizes();
    for dry in [true, false] {
        let outcome = agent.resize_record("v", &grow, dry);
        assert_eq!(outcome.is_ok(), possible.is_ok(), "{outcome:?} {possible:?}");
        if let Err(error) = outcome {
            assert_eq!(error.hint.as_deref(), Some("plinth volume detach v first"), "{error}");
            assert_eq!(agent.volume("v").expect("is there").size_bytes, 1 << 20);
        }
    }
    // What there is already is no resize, and over NBD there is no device.
    let same = ResizeVolume { relative: false, ..grow };
    agent.resize_record("v", &same, false).expect("nothing to do");
    let over_nbd = Attachment {
        frontend: FrontendKind::Nbd,
        nbd_socket: Some(folder.path().join("n")),
        ..testing::ublk_attachment()
    };
    testing::attach(&agent, "v", over_nbd);
    let grow = ResizeVolume { size_bytes: 4 << 20, relative: true };
    agent.resize_record("v", &grow, false).expect("grows");
}

/// Multipath mapped the recorded path of a drive after its volume was attached: the agent could open it still, and never
/// looked for the path by which a target can.
#[test]
fn a_path_that_is_claimed_is_looked_for_elsewhere() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("drive");
    std::fs::File::create(&file).expect("creates").set_len(256 << 20).expect("sizes");
    let Some(device) = testing::LoopDevice::over(&file) else { return };
    let agent = testing::agent(folder.path());
    testing::volume_on(&agent, device.0.clone(), "v");
    let seen_where_it_was = || agent.usable_of(&agent.group("v").expect("a group")).expect("looks").1;
    assert!(seen_where_it_was());
    let claim = device.claim();
    assert!(!seen_where_it_was());
    drop(claim);
    assert!(seen_where_it_was());
}

/// The operator's word came when the target had just come to serve by itself: that was noted, and not shown yet. The word was
/// kept, and weeks later a volume went on from a stale copy of which nobody had said so.
#[tokio::test]
async fn a_word_to_go_on_from_a_stale_copy_is_not_kept_once_it_is_noted_that_the_volume_serves() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("targets")).expect("makes");
    std::fs::create_dir(folder.path().join("groups")).expect("makes");
    let agent = testing::agent(folder.path());
    testing::new_volume(&agent, folder.path(), "v");
    let socket = folder.path().join("nbd");
    let over_nbd = Attachment {
        frontend: FrontendKind::Nbd,
        nbd_socket: Some(socket.clone()),
        served: true,
        ..testing::ublk_attachment()
    };
    testing::attach(&agent, "v", over_nbd);
    // What it begins runs only when this test waits for something.
    agent.supervisor.start(&agent, "v", "pool-of-v");
    let params = AttachVolume { nbd: Some(socket), read_only: false, force_stale: true };
    let forced = || {
        agent.announce_attachment("v", &params, false).expect("announces");
        agent.prepare_activation("v").expect("prepares");
        let path = agent.options.target_spec(&agent.group_of("v").expect("has one"));
        TargetSpec::read(&path).expect("reads").forced
    };
    assert!(forced(), "while none serves the next one hears it");
    agent.note_serving("v", None, Some(1)).expect("notes");
    assert!(!forced(), "nobody has said so of what is served now");
}
