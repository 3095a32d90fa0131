//! A group in a file, served by the real loop, whose device is one of the test's.
use super::*;
use crate::agent::testing;
use crate::catalogue::{Attachment, FrontendKind};
use crate::target::open::{Opened, open_group};
use crate::target::serve::{Front, Watcher};
use crate::target::{Ending, Note, Serving};
use crate::target_spec::TargetSpec;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use ublk_target::NbdServer;

/// A device that does what it is told to, and keeps what became of it.
#[derive(Default)]
pub(in crate::target::serve) struct Told {
    recovering: bool,
    starts: bool,
    resizes: bool,
    done: Mutex<Vec<&'static str>>,
}

fn no(what: &'static str) -> UblkError {
    UblkError::NotSupported { what, since: "Linux 6.16" }
}

impl Told {
    fn note(&self, what: &'static str, works: bool) -> Result<(), UblkError> {
        self.done.lock().expect("no panic").push(what);
        if works { Ok(()) } else { Err(no(what)) }
    }
    fn done(&self) -> Vec<&'static str> {
        self.done.lock().expect("no panic").clone()
    }
}

impl Device for Told {
    fn id(&self) -> u32 {
        7
    }
    fn recovering(&self) -> bool {
        self.recovering
    }
    fn start(&self) -> Result<(), UblkError> {
        self.note("start", self.starts)
    }
    fn follow_size(&self) -> Result<(), UblkError> {
        self.note("follow_size", self.resizes)
    }
    fn check_resizes(&self, _sectors: Sectors) -> Result<(), UblkError> {
        self.note("check_resizes", self.resizes)
    }
    fn resize(&self, _sectors: Sectors) -> Result<(), UblkError> {
        self.note("resize", self.resizes)
    }
    fn quiesce(&self) -> Result<(), UblkError> {
        self.note("quiesce", true)
    }
    fn stop(&self) -> Result<(), UblkError> {
        self.note("stop", true)
    }
    fn delete(&self) -> Result<(), UblkError> {
        self.note("delete", true)
    }
}

/// The spec of a target of a new volume of one leg.
pub(in crate::target::serve) fn spec(folder: &Path) -> TargetSpec {
    let agent = testing::agent(folder);
    testing::new_volume(&agent, folder, "v");
    let attachment = Attachment {
        frontend: FrontendKind::Nbd,
        nbd_socket: Some(folder.join("nbd")),
        ..testing::ublk_attachment()
    };
    testing::attach(&agent, "v", attachment);
    let path = agent.options.target_spec(&agent.group_of("v").expect("has one"));
    std::fs::create_dir_all(path.parent().expect("in a folder")).expect("makes");
    agent.prepare_activation("v").expect("prepares");
    TargetSpec::read(&path).expect("reads")
}

/// Serves until the engine does; the loop's glue, and what it says.
pub(in crate::target::serve) fn serve(
    folder: &Path,
    spec: TargetSpec,
    device: &Arc<Told>,
) -> (Glue, Receiver<Note>) {
    let Opened { target, absent, open, .. } = open_group(&spec, None).expect("opens");
    assert!(absent.is_empty(), "{absent:?}");
    let (notes, heard) = channel();
    let handle = target.handle();
    let (device, stays): (Arc<dyn Device>, _) = (device.clone(), Arc::default());
    let nbd = Some(NbdServer::bind(&folder.join("nbd")).expect("binds"));
    let front = Front { queue: None, nbd, device: Some(device.clone()), stays: Arc::clone(&stays) };
    let watcher = Watcher { notes: notes.clone(), open: open.clone(), reset: Vec::new(), opened: false };
    std::thread::spawn(move || front.serve(target, watcher));
    let glue = Glue {
        spec,
        handle,
        device: Some(device),
        stays,
        notes,
        open,
        progress: Mutex::default(),
        scrub: Mutex::default(),
    };
    let served = heard.iter().find_map(|note| match note {
        Note::Serving => Some(Ok(())),
        Note::Ended(ending) => Some(Err(ending)),
        _ => None,
    });
    assert_eq!(served, Some(Ok(())));
    (glue, heard)
}

fn ending(heard: &Receiver<Note>) -> Ending {
    let ended = heard.iter().find_map(|note| match note {
        Note::Ended(ending) => Some(ending),
        _ => None,
    });
    ended.expect("it says how it ended")
}

/// A volume was resized on a kernel that cannot resize its device, and its target killed: the next one could not open the
/// device that it had taken over, closed the group in order, and deleted the device below the file system that was mounted.
#[test]
fn a_device_that_was_taken_over_and_does_not_open_stays() {
    for (recovering, then) in [(true, vec!["start"]), (false, vec!["start", "delete"])] {
        let folder = tempfile::tempdir().expect("a folder");
        let device = Arc::new(Told { recovering, ..Told::default() });
        let (glue, heard) = serve(folder.path(), spec(folder.path()), &device);
        glue.open().expect_err("it does not start");
        glue.abandon();
        assert_eq!(ending(&heard), Ending::Closed);
        assert_eq!(device.done(), then, "recovering: {recovering}");
    }
}

/// It serves with the size that it has, which is said; and a detach takes it away.
#[test]
fn a_device_that_cannot_be_resized_serves_as_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let device = Arc::new(Told { recovering: true, starts: true, ..Told::default() });
    let (glue, heard) = serve(folder.path(), spec(folder.path()), &device);
    glue.open().expect("opens");
    let said = heard.try_iter().find_map(|note| match note {
        Note::Event { kind, message, .. } if kind == "size_kept" => Some(message),
        _ => None,
    });
    assert!(said.expect("is said").contains("volume v keeps the size that it has"));
    glue.detach().expect("detaches");
    assert_eq!(ending(&heard), Ending::Closed);
    assert_eq!(device.done(), ["start", "follow_size", "stop", "delete"]);
}

/// The engine cannot become smaller again, so the device is asked first.
#[test]
fn a_resize_that_the_device_cannot_follow_changes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let device = Arc::new(Told { starts: true, ..Told::default() });
    let (glue, heard) = serve(folder.path(), spec(folder.path()), &device);
    glue.open().expect("opens");
    let before = glue.status().size_bytes;
    let refused = glue.resize(2 * before).expect_err("refused");
    assert_eq!(refused.kind, crate::error::Kind::NotSupported);
    assert_eq!(glue.status().size_bytes, before);
    glue.detach().expect("detaches");
    assert_eq!(ending(&heard), Ending::Closed);
    assert_eq!(device.done(), ["start", "check_resizes", "stop", "delete"]);
}
