//! ns per 4 KiB: sealing and opening with both ciphers, and beside them the checks that blocks have: XXH3-128 of one that
//! is plain, CRC-32C of one that is encrypted.
//!
//! `about` is as long as that of a block. The machine's load moves all figures alike, so ratios within a run count.
use base::{BLOCK_BYTES, Check, Ciphers, CommitNo, KEY_BYTES, Nonce, Tag};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use ublk_target::AwsLc;
use volume::keys::portable::Portable;

fn ciphers(c: &mut Criterion) {
    let mut bench = c.benchmark_group("4 KiB");
    bench.throughput(Throughput::Bytes(BLOCK_BYTES as u64));
    let mut text = [0x5a; BLOCK_BYTES];
    bench.bench_function("XXH3-128", |b| b.iter(|| Check::of(black_box(&text))));
    let check = Check::sealed(Tag([0; 12]), &text);
    bench.bench_function("CRC-32C", |b| b.iter(|| check.crc_fits(black_box(&text))));
    let mut copy = text;
    bench.bench_function("copy", |b| b.iter(|| black_box(&mut copy).copy_from_slice(black_box(&text))));

    let (nonce, about) = (Nonce::commit(CommitNo::new(1)), [7; 12]);
    for (name, ciphers) in [("AWS-LC", &AwsLc as &dyn Ciphers), ("portable", &Portable)] {
        let mut cipher = ciphers.cipher();
        bench.bench_function(format!("{name}: key"), |b| {
            b.iter(|| cipher.set_key(black_box(&[1; KEY_BYTES])));
        });
        bench.bench_function(format!("{name}: seal"), |b| {
            b.iter(|| cipher.seal(&nonce, &about, black_box(&mut text)));
        });
        let tag = cipher.seal(&nonce, &about, &mut text);
        // A text is opened once: each time it is copied from what was sealed, as for the reads of a scrub.
        bench.bench_function(format!("{name}: copy, open"), |b| {
            b.iter(|| {
                copy.copy_from_slice(&text);
                assert!(cipher.open(&nonce, &about, black_box(&mut copy), &tag));
            });
        });
    }
    bench.finish();
}

criterion_group!(benches, ciphers);
criterion_main!(benches);
