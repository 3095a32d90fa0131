//! What drives say of their own health: an NVMe drive's page, a SATA drive's attributes and registers.
//!
//! An input is a page of 512 bytes and a sense of 64. Promises beside those of all targets: a sum that is wrong is
//! refused, one that is right is not; what is told stays within what its place can say.
use super::Target;
use crate::signature::Signature;
use ublk_target::smart::{Smart, of_ata, of_nvme};

/// Health of drives.
pub const SMART: Target = Target {
    name: "smart",
    about: "what drives say of their own health",
    seeds,
    words: &[&[0x72, 1], &[0x70, 0, 1], &[0x09, 0x0c], &[0x4f, 0, 0xc2], &[0xf4, 0, 0x2c]],
    run,
    cost: 1,
};

const PAGE: usize = 512;
const SENSE: usize = 64;
/// Where the attributes of a SATA drive begin, and the bytes of one.
const ATTRIBUTES: usize = 2;
const ATTRIBUTE: usize = 12;

fn seeds() -> Vec<Vec<u8>> {
    let mut nvme = [0; PAGE + SENSE];
    nvme[..6].copy_from_slice(&[0b101, 0x36, 0x01, 90, 10, 3]);
    (32..192).step_by(16).for_each(|at| nvme[at] = at as u8);
    let mut ata = [0; PAGE + SENSE];
    for (i, number) in [9, 12, 174, 187, 190, 194, 198].into_iter().enumerate() {
        let at = ATTRIBUTES + i * ATTRIBUTE;
        (ata[at], ata[at + 5], ata[at + 6]) = (number, 41, 3);
    }
    let with_sense = |sense: &[u8]| {
        let mut input = ata;
        input[PAGE..PAGE + sense.len()].copy_from_slice(sense);
        input.to_vec()
    };
    let descriptor = [0x72, 1, 0, 0x1d, 0, 0, 0, 14, 9, 12, 0, 0, 0, 0, 0, 0, 0, 0xf4, 0, 0x2c, 0, 0x50];
    // Another descriptor before it.
    let second =
        [0x72, 1, 0, 0, 0, 0, 0, 56, 2, 6, 0, 0, 0, 0, 0, 0, 9, 12, 0, 0, 0, 0, 0, 0, 0, 0x4f, 0, 0xc2];
    // Both lengths lead beyond the end.
    let beyond = [0x72, 1, 0, 0, 0, 0, 0, 0xf0, 2, 60];
    let fixed = [0x70, 0, 1, 0, 0, 0, 0, 10, 0, 0, 0x4f, 0xc2];
    vec![
        nvme.to_vec(),
        with_sense(&descriptor),
        with_sense(&second),
        with_sense(&beyond),
        with_sense(&fixed),
        with_sense(&[0x72; 64]),
    ]
}

fn run(input: &[u8]) -> Signature {
    let mut signature = Signature::default();
    let mut bytes = [0; PAGE + SENSE];
    let count = input.len().min(bytes.len());
    bytes[..count].copy_from_slice(&input[..count]);
    let (page, sense) = bytes.split_at(PAGE);
    let (mut page, sense): ([u8; PAGE], [u8; SENSE]) =
        (page.try_into().expect("a page"), sense.try_into().expect("a sense"));
    let nvme = of_nvme(&page);
    assert!(nvme.temperature_celsius.is_none_or(|degrees| (-272..=65_262).contains(&degrees)));
    look(&nvme, &mut signature);
    let sum = |page: &[u8; PAGE]| page.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    assert_eq!(of_ata(&page, &sense).is_some(), sum(&page) == 0, "taken or refused against its sum");
    page[PAGE - 1] = page[PAGE - 1].wrapping_sub(sum(&page));
    let ata = of_ata(&page, &sense).expect("the sum is right");
    assert_eq!(ata.critical_warning & !0b100, 0, "a SATA drive knows one warning");
    assert!(ata.temperature_celsius.is_none_or(|degrees| (-128..=127).contains(&degrees)));
    look(&ata, &mut signature);
    signature
}

fn look(smart: &Smart, signature: &mut Signature) {
    signature.note(u64::from(smart.critical_warning != 0));
    signature.shape(smart);
}
