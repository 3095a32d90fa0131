//! The replay: every target's corpus, and some fresh mutations of it, in bounded time.
use crate::campaign::{Campaign, Limit};
use crate::targets::{ALL, Target};

/// Fresh mutations of a target's corpus, unless the target is slow (`Target::cost`).
pub const FRESH_INPUTS: u64 = 2000;

/// Goes through all targets; how many passed and failed. Says which inputs broke what.
///
/// # Errors
/// A corpus cannot be read.
pub fn replay(seed: u64) -> std::io::Result<(u64, u64)> {
    let (mut passed, mut failed) = (0, 0);
    for target in ALL {
        let campaign = run(target, seed, Limit::Inputs(FRESH_INPUTS / target.cost))?;
        match campaign.figures().crashes {
            0 => passed += 1,
            _ => failed += 1,
        }
    }
    Ok((passed, failed))
}

/// One campaign, its figures printed.
///
/// # Errors
/// The corpus cannot be read.
pub fn run(target: &Target, seed: u64, limit: Limit) -> std::io::Result<Campaign<'_>> {
    let mut campaign = Campaign::new(target, seed)?;
    campaign.run(limit);
    let figures = campaign.figures();
    for place in figures.broken.keys() {
        println!("{}: {place}", target.name);
    }
    println!(
        "fuzz {}: {} inputs, {} crashes, {} ways",
        target.name, figures.inputs, figures.crashes, figures.ways
    );
    Ok(campaign)
}
