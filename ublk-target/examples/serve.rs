//! Serves one drive or file as it is (block `n` is block `n`): to try the driver by hand, and in virtual machines.
//!
//! `serve DRIVE --nbd SOCKET` or `serve DRIVE --ublk NUMBER` (the number says whose device it is: the same number
//! takes over the device that a killed run left). One command per line on standard input:
//! `stop` takes the device away and ends (refused while it is in use), `leave` ends and leaves the device waiting,
//! `resize SECTORS` changes its size. The end of the input is ignored.
use base::{DriveIx, Duration, Phase, RowNo, Sectors};
use std::error::Error;
use std::io::BufRead;
use std::path::Path;
use ublk_target::linear::LinearEngine;
use ublk_target::ublk::{UblkDevice, harden_process};
use ublk_target::{
    Access, Control, Drive, Handle, NbdServer, Notice, Options, Target, TargetError, VolumeInfo,
};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [drive, kind, place] = args.as_slice() else {
        return Err("usage: serve DRIVE --nbd SOCKET | --ublk NUMBER".into());
    };
    if kind == "--ublk" {
        for failed in harden_process() {
            println!("warning: {failed}");
        }
    }
    let patience = std::time::Duration::from_secs(30);
    let drive = Drive::open_within(Path::new(drive), Access::ReadWrite, patience)?;
    println!("opened");
    println!("{}: {:?}", drive.path().display(), drive.properties());
    let engine = LinearEngine::new(drive.size());
    let volume = VolumeInfo {
        sectors: engine.sectors(),
        stripe_bytes: 64 << 10,
        max_discard: Sectors::new(1 << 21),
        read_only: false,
    };
    let options = Options { slow_after: Duration::from_millis(2_000), ..Options::default() };
    let target = Target::new(engine, vec![drive], volume.clone(), options)?;
    match kind.as_str() {
        "--nbd" => {
            let handle = target.handle();
            std::thread::spawn(move || {
                commands(|_| {
                    handle.stop();
                    false
                })
            });
            target.run(&mut NbdServer::bind(Path::new(place))?, &mut Printing)?;
        }
        "--ublk" => serve_ublk(target, &volume, place.parse()?)?,
        other => return Err(format!("unknown front end {other}").into()),
    }
    println!("ended");
    Ok(())
}

fn serve_ublk(target: Target<LinearEngine>, volume: &VolumeInfo, owner: u64) -> Result<(), Box<dyn Error>> {
    let handle = target.handle();
    let (device, mut queue) = UblkDevice::prepare(owner, volume)?;
    let run = move || -> Result<(), TargetError> { target.run(&mut queue, &mut Printing).map(|_| ()) };
    let serving = std::thread::Builder::new().name("loop".into()).spawn(run)?;
    device.start()?;
    if device.recovering() {
        device.follow_size()?;
    }
    println!("ready {} recovered {}", device.path().display(), device.recovering());
    let mut delete = false;
    commands(|line| command(&device, &handle, line, &mut delete));
    serving.join().expect("no panic")?;
    if delete {
        device.delete()?;
    }
    Ok(())
}

/// Carries out a line; false ends.
fn command(device: &UblkDevice, handle: &Handle<LinearEngine>, line: &str, delete: &mut bool) -> bool {
    let outcome = match line.split_once(' ').unwrap_or((line, "")) {
        ("stop", _) => device.stop().map(|()| *delete = true),
        ("leave", _) => Ok(()),
        ("resize", size) => device.resize(Sectors::new(size.parse().unwrap_or(0))),
        _ => return true,
    };
    match outcome {
        Ok(()) if line.starts_with("resize") => println!("done {line}"),
        Ok(()) => {
            handle.stop();
            return false;
        }
        Err(error) => println!("failed {line}: {error}"),
    }
    true
}

/// Reads lines until `each` returns false; then, or at the end of the input, waits for ever or returns.
fn commands(mut each: impl FnMut(&str) -> bool) {
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        if !each(line.trim()) {
            return;
        }
    }
    loop {
        std::thread::park();
    }
}

struct Printing;

impl<E> Control<E> for Printing {
    fn phase(&mut self, phase: Phase, _engine: &E) {
        println!("phase {phase:?}");
    }
    fn want_row(&mut self, row: RowNo) {
        println!("wants row {row}");
    }
    fn store_stale(&mut self, drives: u32, version: u64, _engine: &E) {
        println!("stale {drives:#x} by version {version}");
    }
    fn store_current(&mut self, drive: DriveIx, version: u64, _engine: &E) {
        println!("{drive:?} current by version {version}");
    }
    fn notice(&mut self, notice: Notice) {
        println!("{notice:?}");
    }
}
