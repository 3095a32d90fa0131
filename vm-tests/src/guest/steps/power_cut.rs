//! `power-cut`, inside: a load that says everything before and after it does it, until the machine is cut. It writes
//! blocks of the device, or files of an ext4 on it.

use super::files::{make_ext4, mount_ext4};
use crate::error::{Context, Error, Result};
use crate::guest::load::Fio;
use crate::guest::product::send_signal;
use crate::guest::runner::Teller;
use crate::guest::{Guest, Memory};
use crate::key;
use crate::oracle::{BLOCK_BYTES, Fact, FileName, content, file_content, file_path};
use crate::protocol::{MARK, MARKED};
use crate::random::Random;
use nix::fcntl::{FallocateFlags, OFlag, fallocate};
use nix::sys::signal::Signal;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Writers, each with blocks of its own.
const WRITERS: u32 = 4;
/// Blocks of one writer: few enough that most are overwritten between two cuts.
const BLOCKS: u64 = 1024;
/// Distance between the windows of two writers.
const STRIDE: u64 = 8192;
/// The largest request.
const LARGEST_BLOCKS: u64 = 16;
/// Files of one writer at most, and the largest.
const FILES: usize = 24;
const LARGEST_FILE: u64 = 256 << 10;
/// Where an agent keeps its state unless it is told otherwise.
const STATE: &str = "/var/lib/plinth";
const MOUNT: &str = "/mnt/vol";

/// Makes the volume, or takes it over from the drives as the last cut left them, and loads it until the power is
/// cut. Behind the last cut there is no load: the volume comes up, is closed, and its drives are checked.
pub(super) fn run(guest: &mut Guest) -> Result<()> {
    let drives = guest.drives()?;
    let device = if guest.number("bare")? == 1 {
        drives[0].path.clone()
    } else if guest.number("resumes")? == 0 {
        let encrypted = start_agent(guest)?;
        let (legs, columns) = (guest.parameter("legs")?.to_owned(), guest.parameter("columns")?.to_owned());
        let mut shape = vec!["--legs", legs.as_str(), "--columns", columns.as_str()];
        if encrypted {
            shape.extend(["--encrypt", "--kek", key::NAME]);
        }
        let device = guest.new_device(&drives, guest.number("volume_mib")?, &shape)?;
        if guest.number("files")? == 1 {
            make_ext4(guest, &device)?;
        }
        device
    } else {
        start_agent(guest)?;
        let names: Vec<String> = drives.iter().map(|d| d.name()).collect();
        let words: Vec<&str> =
            ["pool", "import"].into_iter().chain(names.iter().map(String::as_str)).collect();
        guest.plinth_ok(&words)?;
        guest.attach()?
    };
    let sum = guest.checksum(&device)?;
    guest.tell(format!("sum {sum}"));
    if guest.number("loads")? == 0 {
        if guest.parameter("scenario")? == "matrix" {
            verified_after_cut(guest, &device)?;
        }
        guest.detach()?;
        return guest.stop_and_fsck(&drives);
    }
    let first_version = guest.number("first_version")?;
    let seed = guest.number("seed")?;
    let flush_one_in = guest.number("flush_one_in")?;
    let files = guest.number("files")? == 1;
    if files {
        mount_ext4(guest, &device, MOUNT)?;
    }
    if guest.parameter("scenario")? == "matrix" {
        verified_under_kill(guest)?;
    }
    let mut threads = Vec::new();
    for writer in 0..WRITERS {
        let load = Load {
            writer,
            device: device.clone(),
            teller: guest.teller(),
            random: Random::new(seed ^ (u64::from(writer) << 32) ^ first_version),
            version: first_version,
            flush_one_in,
        };
        threads.push(std::thread::spawn(move || if files { load.run_files() } else { load.run() }));
    }
    guest.answer(MARK, MARKED)?;
    guest.tell("loading");
    for thread in threads {
        let outcome = thread.join().map_err(|_| Error::failed("a writer panicked"))?;
        outcome?;
    }
    Err(Error::failed("the load ended, and nobody had cut the power"))
}

/// Starts an agent that has the key, if the volume is encrypted; returns whether it is.
fn start_agent(guest: &mut Guest) -> Result<bool> {
    let encrypted = guest.number("encrypted")? == 1;
    if encrypted {
        key::put(Path::new(STATE))?;
    }
    guest.start_agent()?;
    if encrypted {
        guest.plinth_ok(&["key", "create", key::NAME])?;
    }
    Ok(encrypted)
}

/// The file that fio writes and verifies on the file system.
fn fio_file(runs: &str) -> Fio {
    let file = Path::new(MOUNT).join("fio");
    Fio::on(&file, runs).with("--rw=randwrite").with("--bsrange=4k-64k").with("--size=24m").verified()
}

/// fio writes a file and verifies it while the serving process is killed; the file is synced before anything is cut.
fn verified_under_kill(guest: &mut Guest) -> Result<()> {
    let load = fio_file("load").with("--verify_backlog=64").with("--end_fsync=1").start()?;
    let target = guest.target_pid()?;
    send_signal(target, Signal::SIGKILL)?;
    load.finish()?;
    guest.wait_volume("another process serves", Duration::from_secs(60), |json| {
        json["target"]["pid"].as_i64().is_some_and(|pid| pid != i64::from(target))
    })?;
    fio_file("again").with("--verify_only").run()?;
    // Everything so far, the folder too, is there whatever is cut later.
    nix::unistd::sync();
    Ok(())
}

/// Behind the cut: the same file, and the file system as a whole.
fn verified_after_cut(guest: &mut Guest, device: &Path) -> Result<()> {
    mount_ext4(guest, device, MOUNT)?;
    let verified = fio_file("after").with("--verify_only").run();
    guest.check("fio-after-cut", verified.map_err(|e| e.to_string()));
    guest.run("umount", &[MOUNT])?;
    let checked = guest.run("e2fsck", &["-f", "-n", &device.to_string_lossy()]);
    guest.check("e2fsck-after-cut", checked.map(|_| ()).map_err(|e| e.to_string()));
    Ok(())
}

struct Load {
    writer: u32,
    device: PathBuf,
    teller: Teller,
    random: Random,
    version: u64,
    /// How rare flushes are, and durable writes: rare ones leave long tails at risk.
    flush_one_in: u64,
}

impl Load {
    fn run(mut self) -> Result<()> {
        let plain = open(&self.device, OFlag::O_DIRECT)?;
        let synced = open(&self.device, OFlag::O_DIRECT | OFlag::O_DSYNC)?;
        let mut memory = Memory::new();
        loop {
            if self.random.below(self.flush_one_in) == 0 {
                match self.random.below(2) {
                    0 => self.flush(&plain)?,
                    _ => self.write(&synced, &mut memory, true)?,
                }
            } else if self.random.below(20) == 0 {
                self.zero(&plain)?;
            } else {
                self.write(&plain, &mut memory, false)?;
            }
        }
    }

    /// Files of many sizes, synced and not, and old ones removed.
    fn run_files(mut self) -> Result<()> {
        let folder = Path::new(MOUNT).join(format!("w{}", self.writer));
        fs::create_dir_all(&folder).doing(|| format!("make {}", folder.display()))?;
        let mut there = self.clear(&folder)?;
        loop {
            self.version += 1;
            let file = (self.writer, self.version, 1 + self.random.below(LARGEST_FILE));
            let synced = self.random.below(self.flush_one_in.min(40)) == 0;
            self.write_file(&folder, file, synced)?;
            there.push(file);
            if there.len() > FILES {
                let at = usize::try_from(self.random.below(there.len() as u64)).expect("small");
                self.remove_file(there.swap_remove(at))?;
            }
        }
    }

    /// Removes what an earlier machine left half done; returns what is whole.
    fn clear(&self, folder: &Path) -> Result<Vec<FileName>> {
        let mut whole = Vec::new();
        for entry in fs::read_dir(folder).doing(|| format!("read {}", folder.display()))?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let numbers = name.split_once('-').and_then(|(v, b)| Some((v.parse().ok()?, b.parse().ok()?)));
            let Some((version, bytes)) = numbers else { continue };
            let file = (self.writer, version, bytes);
            if fs::read(entry.path()).is_ok_and(|there| there == file_content(file)) {
                whole.push(file);
            } else {
                self.remove_file(file)?;
            }
        }
        Ok(whole)
    }

    fn write_file(&self, folder: &Path, name: FileName, synced: bool) -> Result<()> {
        let path = Path::new(MOUNT).join(file_path(name));
        let doing = || format!("write {}", path.display());
        let mut file = File::create(&path).doing(doing)?;
        file.write_all(&file_content(name)).doing(doing)?;
        if synced {
            file.sync_all().doing(doing)?;
            File::open(folder).and_then(|folder| folder.sync_all()).doing(doing)?;
            self.say(Fact::Kept(name));
        }
        Ok(())
    }

    fn remove_file(&self, name: FileName) -> Result<()> {
        let path = Path::new(MOUNT).join(file_path(name));
        self.say(Fact::Removing(name));
        fs::remove_file(&path).doing(|| format!("remove {}", path.display()))
    }

    fn say(&self, fact: Fact) {
        self.teller.tell(fact.to_string());
    }

    /// A place of this writer's window, and a number of blocks.
    fn place(&mut self) -> (u64, u64) {
        let count = 1 + self.random.below(LARGEST_BLOCKS);
        let at = self.random.below(BLOCKS - count + 1);
        self.version += 1;
        (u64::from(self.writer) * STRIDE + at, count)
    }

    fn write(&mut self, file: &File, memory: &mut Memory, durable: bool) -> Result<()> {
        let (block, count) = self.place();
        let (writer, version) = (self.writer, self.version);
        let bytes = memory.take(count * BLOCK_BYTES as u64);
        for (at, piece) in (block..).zip(bytes.chunks_mut(BLOCK_BYTES)) {
            piece.copy_from_slice(&content(at, version, false));
        }
        self.say(Fact::Issue { writer, block, count, version, zeros: false, durable });
        file.write_all_at(bytes, block * BLOCK_BYTES as u64)
            .doing(|| format!("write {count} blocks at {block}"))?;
        self.say(Fact::Acked { writer });
        Ok(())
    }

    fn zero(&mut self, file: &File) -> Result<()> {
        let (block, count) = self.place();
        let (writer, version) = (self.writer, self.version);
        self.say(Fact::Issue { writer, block, count, version, zeros: true, durable: false });
        let bytes =
            |blocks: u64| i64::try_from(blocks * BLOCK_BYTES as u64).expect("device sizes fit an i64");
        let how = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(file, how, bytes(block), bytes(count))
            .doing(|| format!("zero {count} blocks at {block}"))?;
        self.say(Fact::Acked { writer });
        Ok(())
    }

    fn flush(&mut self, file: &File) -> Result<()> {
        self.say(Fact::Flush { writer: self.writer });
        file.sync_all().doing(|| "flush".into())?;
        self.say(Fact::Flushed { writer: self.writer });
        Ok(())
    }
}

fn open(device: &Path, flags: OFlag) -> Result<File> {
    let mut options = File::options();
    options.read(true).write(true).custom_flags(flags.bits());
    options.open(device).doing(|| format!("open {}", device.display()))
}
