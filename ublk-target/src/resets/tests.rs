//! Events as kernels send them, and trees as `/sys` has them.
use super::*;
use crate::testing::{TempDir, TempFile};
use std::os::unix::fs::symlink;

const NVME: &[u8] = b"change@/devices/pci0000:00/0000:00:04.0/nvme/nvme0\0ACTION=change\0\
    DEVPATH=/devices/pci0000:00/0000:00:04.0/nvme/nvme0\0SUBSYSTEM=nvme\0NVME_TRTYPE=pcie\0\
    NVME_EVENT=connected\0MAJOR=242\0MINOR=0\0DEVNAME=nvme0\0SEQNUM=1700\0";
const SCSI: &[u8] =
    b"change@/devices/pci0000:00/0000:00:05.0/virtio1/host0/target0:0:0/0:0:0:0\0ACTION=change\0\
    DEVPATH=/devices/pci0000:00/0000:00:05.0/virtio1/host0/target0:0:0/0:0:0:0\0SUBSYSTEM=scsi\0\
    SDEV_UA=POWER_ON_RESET_OCCURRED\0DEVTYPE=scsi_device\0SEQNUM=1701\0";

#[test]
fn events_of_resets_are_told_from_others() {
    let path = "devices/pci0000:00/0000:00:04.0/nvme/nvme0";
    let device = |path: &str| Some(Reset::Device(PathBuf::from(path)));
    assert_eq!(reset_of(NVME), device(path));
    let scsi = "devices/pci0000:00/0000:00:05.0/virtio1/host0/target0:0:0/0:0:0:0";
    assert_eq!(reset_of(SCSI), device(scsi));
    let other = b"change@/devices/virtual/block/loop0\0ACTION=change\0SUBSYSTEM=block\0SEQNUM=5\0";
    let news = b"change@/devices/pci0/nvme/nvme0\0ACTION=change\0SUBSYSTEM=nvme\0NVME_EVENT=rediscover\0";
    for nothing in [&other[..], news, b"", b"\0\0", b"NVME_EVENT=connected\0"] {
        assert_eq!(reset_of(nothing), None, "{nothing:?}");
    }
    for length in 0..NVME.len() {
        let _ = reset_of(&NVME[..length]);
    }
}

/// An event whose first text was no UTF-8 counted for nothing, reset or not: a flush behind it would have been believed.
#[test]
fn a_reset_of_what_is_not_understood_is_one_all_the_same() {
    let odd = reset_of(b"\xff@/\xfe\0NVME_EVENT=connected\0");
    assert_eq!(odd, Some(Reset::Device(PathBuf::from(OsStr::from_bytes(b"\xfe")))));
    assert_eq!(reset_of(b"nobody\0SDEV_UA=POWER_ON_RESET_OCCURRED\0"), Some(Reset::Any));
    assert_eq!(reset_of(b"\0NVME_EVENT=connected"), Some(Reset::Any));
}

fn tree(links: &[(&str, &str)], folders: &[&str]) -> TempDir {
    let dir = TempDir::new();
    for folder in folders {
        std::fs::create_dir_all(dir.path().join(folder)).expect("makes");
    }
    for (link, to) in links {
        let link = dir.path().join(link);
        std::fs::create_dir_all(link.parent().expect("a folder")).expect("makes");
        symlink(dir.path().join(to), link).expect("links");
    }
    dir
}

fn carriers(sys: &Path, block: &str) -> Vec<String> {
    let mut found = Vec::new();
    collect(sys, &sys.join(block), MAX_DEPTH, &mut found).expect("found");
    found.sort();
    found.into_iter().map(|path| path.to_string_lossy().into_owned()).collect()
}

#[test]
fn a_namespace_lies_on_its_controller() {
    let sys = tree(
        &[
            ("dev/block/259:0", "devices/pci0/nvme/nvme0/nvme0n1"),
            ("dev/block/259:1", "devices/pci0/nvme/nvme0/nvme0n1/nvme0n1p1"),
            ("devices/pci0/nvme/nvme0/nvme0n1/device", "devices/pci0/nvme/nvme0"),
        ],
        &["devices/pci0/nvme/nvme0/nvme0n1/nvme0n1p1/partition", "devices/pci0/nvme/nvme0/nvme0n1/slaves"],
    );
    for block in ["dev/block/259:0", "dev/block/259:1"] {
        assert!(carriers(sys.path(), block).contains(&"devices/pci0/nvme/nvme0".to_owned()), "{block}");
    }
}

#[test]
fn a_namespace_with_paths_lies_on_all_its_controllers() {
    let subsystem = "devices/virtual/nvme-subsystem/nvme-subsys0";
    let sys = tree(
        &[
            ("dev/block/259:0", "devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1"),
            ("devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1/device", subsystem),
            ("devices/virtual/nvme-subsystem/nvme-subsys0/nvme1", "devices/virtual/nvme-fabrics/ctl/nvme1"),
            ("devices/virtual/nvme-subsystem/nvme-subsys0/nvme2", "devices/virtual/nvme-fabrics/ctl/nvme2"),
        ],
        &[
            "devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1",
            "devices/virtual/nvme-fabrics/ctl/nvme1",
            "devices/virtual/nvme-fabrics/ctl/nvme2",
        ],
    );
    let found = carriers(sys.path(), "dev/block/259:0");
    for path in ["devices/virtual/nvme-fabrics/ctl/nvme1", "devices/virtual/nvme-fabrics/ctl/nvme2"] {
        assert!(found.contains(&path.to_owned()), "{found:?}");
    }
}

#[test]
fn a_mapping_lies_on_what_its_drives_lie_on() {
    let sys = tree(
        &[
            ("dev/block/254:0", "devices/virtual/block/dm-0"),
            ("devices/virtual/block/dm-0/slaves/sda", "devices/scsi/0:0:0:0/block/sda"),
            ("devices/virtual/block/dm-0/slaves/sdb", "devices/scsi/1:0:0:0/block/sdb"),
            ("devices/scsi/0:0:0:0/block/sda/device", "devices/scsi/0:0:0:0"),
            ("devices/scsi/1:0:0:0/block/sdb/device", "devices/scsi/1:0:0:0"),
        ],
        &["devices/scsi/0:0:0:0/block/sda", "devices/scsi/1:0:0:0/block/sdb"],
    );
    assert_eq!(carriers(sys.path(), "dev/block/254:0"), ["devices/scsi/0:0:0:0", "devices/scsi/1:0:0:0"]);
    let endless = tree(
        &[
            ("dev/block/254:0", "devices/virtual/block/dm-0"),
            ("devices/virtual/block/dm-0/slaves/dm-0", "devices/virtual/block/dm-0"),
        ],
        &["devices/virtual/block/dm-0"],
    );
    assert!(
        collect(endless.path(), &endless.path().join("dev/block/254:0"), MAX_DEPTH, &mut Vec::new()).is_err()
    );
}

/// The queue of real events holds nothing that this test could count on, but it can be asked.
#[test]
fn the_kernel_can_be_listened_to() {
    let mut resets = Resets::listen().expect("listens");
    while let Some(reset) = resets.next() {
        assert!(matches!(reset, Reset::Device(_)), "nothing was lost within this test: {reset:?}");
    }
    let file = TempFile::new(1 << 16);
    let drive = File::open(file.path()).expect("opens");
    assert!(lies_on(&drive, &Reset::Any));
}

/// The states of a disk's controllers, by what is linked where.
fn states_of(sys: &TempDir, controllers: &[(&str, &str)]) -> Controllers {
    for (controller, state) in controllers {
        std::fs::create_dir_all(sys.path().join(controller)).expect("makes");
        std::fs::write(sys.path().join(controller).join("state"), format!("{state}\n")).expect("writes");
    }
    Controllers(states(&sys.path().join("dev/block/259:0")).expect("found"))
}

/// A flush that spans a reset ends before the kernel tells of the reset, and was believed.
#[test]
fn a_controller_that_is_being_reset_does_not_serve() {
    let controller = "devices/pci0/nvme/nvme0";
    let links = [
        ("dev/block/259:0", "devices/pci0/nvme/nvme0/nvme0n1"),
        ("devices/pci0/nvme/nvme0/nvme0n1/device", controller),
    ];
    let sys = tree(&links, &["devices/pci0/nvme/nvme0/nvme0n1/slaves"]);
    let controllers = states_of(&sys, &[(controller, "live")]);
    assert!(controllers.0.len() == 1 && controllers.serve());
    for state in ["resetting", "connecting", "new", "deleting (no IO)", "dead", ""] {
        std::fs::write(sys.path().join(controller).join("state"), format!("{state}\n")).expect("writes");
        assert!(!controllers.serve(), "{state}");
    }
    std::fs::write(sys.path().join(controller).join("state"), "live\n").expect("writes");
    assert!(controllers.serve());
}

/// One of several paths may connect for hours while another one serves.
#[test]
fn a_disk_with_several_controllers_serves_while_one_connects() {
    let subsystem = "devices/virtual/nvme-subsystem/nvme-subsys0";
    let [one, other] = ["devices/pci0/nvme/nvme0", "devices/pci0/nvme/nvme1"];
    let disk = format!("{subsystem}/nvme0n1");
    let device = format!("{disk}/device");
    let [link_0, link_1] = ["nvme0", "nvme1"].map(|name| format!("{subsystem}/{name}"));
    let links = [
        ("dev/block/259:0", disk.as_str()),
        (device.as_str(), subsystem),
        (link_0.as_str(), one),
        (link_1.as_str(), other),
    ];
    let sys = tree(&links, &[&format!("{disk}/slaves")]);
    assert!(states_of(&sys, &[(one, "live"), (other, "connecting")]).serve());
}

/// A SCSI disk's state is another file, and a file may lie on nothing of the kind.
#[test]
fn what_has_no_controller_serves() {
    let links = [
        ("dev/block/259:0", "devices/pci0/host0/sda"),
        ("devices/pci0/host0/sda/device", "devices/pci0/host0"),
    ];
    let sys = tree(&links, &["devices/pci0/host0/sda/slaves"]);
    assert!(states_of(&sys, &[("devices/pci0/host0", "running")]).0.is_empty());
    let file = TempFile::new(1 << 20);
    assert!(Controllers::below(&File::open(file.path()).expect("opens")).serve());
}
