//! Whole images, damaged, and the real engine and the offline check over them.
//!
//! Promises, by what was damaged. One leg of a mirror, checks not repaired: the group opens and every block is what it
//! must be. All legs, checks not repaired: a block is what it was, once, or an error. Checks repaired: a block whose
//! content was damaged is never returned, nothing runs for ever, and nothing panics: where free space and the map
//! contradict each other the group takes no more writes. An encrypted group has one promise more, also behind repaired
//! checks: a block is what was written to it once, or a hole. What was written after the opening is read back. What is not
//! checked: that the offline check names the damage (its own tests do).
use super::Target;
use crate::image::edit::{Damaged, damage, seeds};
use crate::image::make::{CONFIG, VOLUME_BLOCKS, content, request};
use crate::image::{Machine, Mode, Stuck, secret};
use crate::signature::Signature;
use base::{BLOCK_BYTES, Block, Check, Lba, Op, Phase, SECTORS_PER_BLOCK};
use plinth_check::{Keyring, Media, NoKeys, Options, fsck_with_keys};

/// Images.
pub const IMAGE: Target = Target {
    name: "image",
    about: "whole groups, damaged in one to twelve places, mostly with repaired checks",
    seeds,
    words: &[],
    run,
    cost: 20,
};

/// Blocks read at once.
const AT_ONCE: u64 = 20;
/// Versions from here on are written by the target itself.
const OWN_VERSION: u32 = 1000;

fn run(input: &[u8]) -> Signature {
    let mut signature = Signature::default();
    let damaged = damage(input);
    signature.shape(&damaged.kinds);
    check_offline(&damaged, &mut signature);
    let drives = damaged.drives.len() as u8;
    let grants = damaged.image.grants.clone();
    let mut machine = Machine::with_keys(
        damaged.drives.clone(),
        CONFIG,
        request(drives, 2, false),
        grants,
        damaged.image.encrypted.then(secret::keys),
    );
    let phase = machine.wait_open().unwrap_or_else(|stuck| panic!("{stuck:?}"));
    signature.shape(&(phase, machine.engine().refusal()));
    let strict = matches!(damaged.mode, Mode::OneLeg(_)) && damaged.image.legs > 1;
    if phase != Phase::Serving {
        assert!(
            !strict || damaged.kinds.is_empty(),
            "one bad leg keeps the group closed: {:?}",
            machine.engine().refusal()
        );
        return signature;
    }
    if let Err(Stuck(why)) = serve(&damaged, &mut machine, strict, &mut signature) {
        panic!("{why}");
    }
    signature
}

/// Reads everything, writes something, closes, and opens again.
fn serve(
    damaged: &Damaged,
    machine: &mut Machine,
    strict: bool,
    signature: &mut Signature,
) -> Result<(), Stuck> {
    let sectors = machine.engine().sectors().map_or(0, |sectors| sectors.get());
    let blocks = (sectors / SECTORS_PER_BLOCK).min(VOLUME_BLOCKS);
    assert!(!strict || blocks == VOLUME_BLOCKS, "one bad leg changes the size of the volume");
    let mut errors = 0u64;
    for lba in (0..blocks).step_by(AT_ONCE as usize) {
        let count = AT_ONCE.min(blocks - lba) as u32;
        match machine.read(Lba::new(lba), count)? {
            Ok(bytes) => judge(damaged, lba, &bytes),
            Err(_) => errors += 1,
        }
    }
    assert!(!strict || errors == 0, "one bad leg makes reads fail");
    signature.note(errors.min(1));
    let written = write_some(machine, blocks)?;
    assert!(!strict || written.len() == WRITES.len(), "one bad leg makes writes fail");
    signature.note(written.len() as u64);
    signature.shape(&machine.engine().halted());
    let flushed = machine.ask(Op::Flush, Lba::ZERO, 0)?.is_ok();
    let closed = machine.close()?;
    assert!(!strict || closed, "one bad leg keeps the group from closing");
    signature.note(u64::from(closed));
    let drives = damaged.drives.len() as u8;
    let (media, grants) = (std::mem::take(&mut machine.drives), machine.grants().clone());
    let keys = damaged.image.encrypted.then(secret::keys);
    let mut again = Machine::with_keys(media, CONFIG, request(drives, 3, false), grants, keys);
    let phase = again.wait_open()?;
    signature.shape(&(phase, again.engine().refusal()));
    if phase == Phase::Serving && flushed {
        read_back(&mut again, &written)?;
    }
    Ok(())
}

const WRITES: [u64; 5] = [0, 5, 127, 300, VOLUME_BLOCKS - 1];

/// Writes a few blocks; which were.
fn write_some(machine: &mut Machine, blocks: u64) -> Result<Vec<u64>, Stuck> {
    let mut written = Vec::new();
    for lba in WRITES {
        if lba < blocks && machine.write(Lba::new(lba), &content(lba, OWN_VERSION), 1)?.is_ok() {
            written.push(lba);
        }
    }
    read_back(machine, &written)?;
    Ok(written)
}

fn read_back(machine: &mut Machine, written: &[u64]) -> Result<(), Stuck> {
    for lba in written {
        if let Ok(bytes) = machine.read(Lba::new(*lba), 1)? {
            assert!(bytes == content(*lba, OWN_VERSION), "block {lba} is not what was written to it");
        }
    }
    Ok(())
}

/// Whether blocks that were read may be what they are.
fn judge(damaged: &Damaged, lba: u64, bytes: &[u8]) {
    for (i, block) in bytes.chunks_exact(BLOCK_BYTES).enumerate() {
        let lba = lba + i as u64;
        assert!(
            !damaged.poisoned.contains(&Check::of(block)),
            "block {lba} is returned although its check does not fit"
        );
        let versions = &damaged.image.versions[lba as usize];
        let was = |version: &u32| block == &content(lba, *version) as &Block;
        let now = versions.last().expect("every block has a version");
        let right = match damaged.mode {
            Mode::Repaired if damaged.image.encrypted => was(&0) || versions.iter().any(was),
            Mode::Repaired => true,
            Mode::OneLeg(_) if damaged.image.legs > 1 => was(now),
            _ if damaged.image.closed => was(now),
            // A tail that no leg can complete is cut; older versions come back.
            _ => versions.iter().any(was),
        };
        assert!(right, "block {lba} holds what it must not, {:?}", damaged.mode);
    }
}

fn check_offline(damaged: &Damaged, signature: &mut Signature) {
    let names: Vec<String> = (0..damaged.drives.len()).map(|i| format!("drive{i}")).collect();
    let media: Vec<(&str, &dyn Media)> =
        names.iter().zip(&damaged.drives).map(|(name, media)| (name.as_str(), media as &dyn Media)).collect();
    let keyrings: &[&dyn Keyring] =
        if damaged.image.encrypted { &[&secret::Ring, &NoKeys] } else { &[&NoKeys] };
    for keys in keyrings {
        let report = fsck_with_keys(&media, &Options::default(), *keys);
        let worst = report.findings.iter().map(|finding| finding.severity).max();
        signature.shape(&worst);
        if damaged.kinds.is_empty() {
            let worst = worst.unwrap_or(plinth_check::Severity::Note);
            assert!(worst <= plinth_check::Severity::Note, "an image without damage: {:?}", report.findings);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::images;

    fn opened(input: &[u8]) -> (Damaged, Machine, Phase) {
        let damaged = damage(input);
        let drives = damaged.drives.len() as u8;
        let request = request(drives, 2, false);
        let grants = damaged.image.grants.clone();
        let keys = damaged.image.encrypted.then(secret::keys);
        let mut machine = Machine::with_keys(damaged.drives.clone(), CONFIG, request, grants, keys);
        let phase = machine.wait_open().expect("it comes to rest");
        (damaged, machine, phase)
    }

    #[test]
    fn images_hold_what_was_written() {
        for (index, image) in images().iter().enumerate() {
            let (damaged, mut machine, phase) = opened(&[index as u8]);
            assert_eq!(phase, Phase::Serving, "{}: {:?}", image.name, machine.engine().refusal());
            for lba in 0..VOLUME_BLOCKS {
                let bytes = machine.read(Lba::new(lba), 1).expect("an answer").expect("readable");
                let now = *damaged.image.versions[lba as usize].last().expect("a version");
                assert!(bytes == content(lba, now), "{}: block {lba}", image.name);
            }
        }
    }

    /// Without repairs the reader behind a check is never reached: a superblock with a bit flipped is passed over when
    /// its check is left alone, and believed when it is repaired.
    #[test]
    fn repairs_reach_behind_the_checks() {
        let mut refusals = [0; 2];
        for seed in seeds().iter().filter(|seed| seed.len() > 1) {
            let (damaged, machine, phase) = opened(seed);
            if phase == Phase::Refused {
                assert!(machine.engine().refusal().is_some());
                refusals[usize::from(damaged.mode == Mode::Repaired)] += 1;
            }
        }
        assert!(refusals[1] > 0, "no repaired edit was ever noticed behind a check");
    }

    #[test]
    #[should_panic(expected = "holds what it must not")]
    fn the_judge_knows_another_block() {
        let damaged = damage(&[0x10]);
        judge(&damaged, 3, &content(4, 1));
    }
}
