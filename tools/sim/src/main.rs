//! `plinth-sim`: runs the simulator from the command line; see `sim::cli`.
use std::process::ExitCode;

fn main() -> ExitCode {
    sim::cli::main::<sim::volume_subject::VolumeGroup>(std::env::args().skip(1))
}
