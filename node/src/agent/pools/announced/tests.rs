//! The story: `pool add` was killed between announcement and label. Its drive was `/dev/sdc`, which another disk is behind
//! the next boot, with a file system on it, mounted. The agent that started wrote its label there.
use super::*;
use crate::agent::testing::agent;
use crate::params::{AddDrives, CreatePool, Labels};
use std::path::{Path, PathBuf};

fn file(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::File::create(&path).expect("creates").set_len(256 << 20).expect("sizes");
    path
}

/// A file with an ext4 file system's mark.
fn foreign(path: &Path) -> Vec<u8> {
    use std::os::unix::fs::FileExt;
    let folder = path.parent().expect("a folder");
    let file = std::fs::File::open(self::file(folder, "foreign")).expect("opens");
    drop(file);
    let file = std::fs::File::options().write(true).open(folder.join("foreign")).expect("opens");
    file.write_all_at(b"\x53\xef", 1080).expect("writes");
    file.write_all_at(b"precious", 512 << 10).expect("writes");
    std::fs::rename(folder.join("foreign"), path).expect("takes its place");
    head(path)
}

fn head(path: &Path) -> Vec<u8> {
    use std::io::Read;
    let mut head = Vec::new();
    std::fs::File::open(path).expect("opens").take(2 << 20).read_to_end(&mut head).expect("reads");
    head
}

fn added(path: &Path, force: bool) -> AddDrives {
    AddDrives { drives: vec![path.to_owned()], labels: Labels::default(), force }
}

/// A pool of one drive, to which another one was announced, and that was all.
fn announced(folder: &Path) -> (std::sync::Arc<Agent>, PathBuf, String) {
    let agent = agent(folder);
    let (first, second) = (file(folder, "d1"), file(folder, "d2"));
    let params = CreatePool {
        name: "p".into(),
        drives: vec![first],
        labels: Labels::default(),
        force: false,
        extent_bytes: None,
    };
    agent.create_pool(&params, false).expect("creates");
    let pool = agent.pool("p").expect("there");
    let candidates = agent.check_drives(std::slice::from_ref(&second), false).expect("it is free");
    let (record, drives) =
        super::super::announce(pool.record.clone(), &candidates, &Labels::default()).expect("announces");
    let pool = Versioned { version: pool.version, record };
    let txn = agent.store.txn().update(records::pool_key("p"), &pool);
    txn.create(records::drive_key(&drives[0].id), &drives[0]).commit().expect("commits");
    let id = drives[0].id.clone();
    drop(agent);
    (self::agent(folder), second, id)
}

fn start(agent: &std::sync::Arc<Agent>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(agent.clone().resume()).expect("resumes");
}

#[test]
fn what_came_to_the_path_of_an_unfinished_drive_is_left_alone_and_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let (agent, path, id) = announced(folder.path());
    let before = foreign(&path);
    start(&agent);
    let untouched = |what: &str| assert!(head(&path) == before, "{what} wrote to it");
    untouched("the start");
    let events = agent.events.list(&crate::params::EventsQuery::default()).expect("reads");
    let told = events.iter().filter(|event| event.kind == "verb_unfinished");
    let told: Vec<&str> = told.map(|event| event.message.as_str()).collect();
    assert!(told.len() == 1 && told[0].contains("d2") && told[0].contains("drive remove p"), "{told:?}");
    let status = agent.show_pool("p").expect("shows");
    assert!(status.status.is_some_and(|status| status.contains("d2") && status.contains("no label")));
    // Somebody else's command, with his leave to overwrite his own drive.
    let third = file(folder.path(), "d3");
    agent.add_drives("p", &added(&third, true), false).expect("adds");
    untouched("the addition of another drive");
    let error = agent.add_drives("p", &added(&path, false), false).expect_err("refused");
    assert!(error.kind == Kind::Refused && error.message.contains("ext2/3/4"), "{error}");
    untouched("the repetition");
    let error = agent.drive_of(&agent.pool("p").expect("there"), &id).expect_err("not complete");
    assert!(error.kind == Kind::Busy && error.to_string().contains("drive remove p"), "{error}");
    // It is given up, as often as one likes, and with its leave it becomes a drive.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let named = path.display().to_string();
    for _ in 0..2 {
        let gone = agent.empty_drive("p", &named, crate::catalogue::Errand::Remove, false);
        assert_eq!(runtime.block_on(gone).expect("removed").id, id);
    }
    untouched("the removal");
    let shown = agent.show_pool("p").expect("shows");
    assert_eq!((shown.drives.len(), shown.status), (2, None));
    agent.add_drives("p", &added(&path, true), false).expect("adds");
    assert!(head(&path) != before);
}

/// A drive of a newer format, or with a label that cannot be read, is not one without a label.
#[test]
fn a_label_that_cannot_be_read_is_no_free_drive() {
    let folder = tempfile::tempdir().expect("a folder");
    let (agent, path, _) = announced(folder.path());
    let other = folder.path().join("d1");
    let copy = std::fs::read(&other).expect("reads");
    std::fs::write(&path, &copy).expect("writes");
    let broken = std::fs::File::options().write(true).open(&path).expect("opens");
    // Both copies of the label of another pool's drive are damaged.
    use std::os::unix::fs::FileExt;
    for place in volume::label::places(Blocks::new((256 << 20) / 4096)) {
        broken.write_all_at(&[0xff; 8], place.get() * 4096 + 64).expect("writes");
    }
    let before = head(&path);
    start(&agent);
    let error = agent.add_drives("p", &added(&path, false), false).expect_err("refused");
    assert_eq!(error.kind, Kind::Damage, "{error}");
    assert!(head(&path) == before);
    agent.add_drives("p", &added(&path, true), false).expect("it may be overwritten");
}

/// What the agent itself had begun it goes on with: one copy of the label is there, the other is not.
#[test]
fn a_drive_with_its_label_is_finished_by_the_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let (agent, path, id) = announced(folder.path());
    let label =
        label_of(&agent.pool("p").expect("there"), &agent.drive(&id).expect("there")).expect("a label");
    let media = Media::open(&path).expect("opens");
    media.write(volume::label::places(label.blocks)[0], &label.encode(0)).expect("writes");
    drop(media);
    start(&agent);
    assert_eq!(agent.drive(&id).expect("there").life, Life::Ready);
    let media = Media::open(&path).expect("opens");
    assert_eq!(read_label(&media).expect("reads"), LabelState::Ours { label, bad_copy: None });
}

/// A command goes on where it was, on the drive that it names.
#[test]
fn a_repetition_finishes_the_drive_that_it_names() {
    let folder = tempfile::tempdir().expect("a folder");
    let (agent, path, id) = announced(folder.path());
    start(&agent);
    assert_eq!(agent.drive(&id).expect("there").life, Life::Creating);
    agent.add_drives("p", &added(&path, false), false).expect("adds");
    let shown = agent.show_pool("p").expect("shows");
    assert_eq!((shown.drives.len(), shown.status), (2, None));
    assert_eq!(agent.drive(&id).expect("there").life, Life::Ready);
}
