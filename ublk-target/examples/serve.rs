//! Serves one drive or file as it is (block `n` is block `n`), over NBD, until SIGTERM: to try the driver by hand.
//!
//! `serve DRIVE --nbd SOCKET`
use base::{Duration, Sectors};
use std::error::Error;
use std::path::Path;
use ublk_target::linear::LinearEngine;
use ublk_target::{Access, Drive, NbdServer, NoControl, Options, Target, VolumeInfo};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [drive, kind, place] = args.as_slice() else {
        return Err("usage: serve DRIVE --nbd SOCKET".into());
    };
    let drive = Drive::open(Path::new(drive), Access::ReadWrite)?;
    eprintln!("{}: {:?}", drive.path().display(), drive.properties());
    let engine = LinearEngine::new(drive.size());
    let volume = VolumeInfo {
        sectors: engine.sectors(),
        stripe_bytes: 64 << 10,
        max_discard: Sectors::new(1 << 21),
        read_only: false,
    };
    let options = Options { slow_after: Duration::from_millis(500), ..Options::default() };
    let target = Target::new(engine, vec![drive], volume, options)?;
    match kind.as_str() {
        "--nbd" => target.run(&mut NbdServer::bind(Path::new(place))?, &mut NoControl)?,
        other => return Err(format!("unknown front end {other}").into()),
    };
    Ok(())
}
