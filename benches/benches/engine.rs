//! ns per 4 KiB: reads, and writes on one and two legs, at depth 1 and 32, in random order; plain, and encrypted with
//! either library.
use base::Op;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use plinth_benches::NullGroup;
use ublk_target::AwsLc;
use volume::keys::portable::Portable;

const MEBIBYTES: u64 = 256;

fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state % (MEBIBYTES * 256) * 8
}

fn engine(c: &mut Criterion) {
    let mut bench = c.benchmark_group("engine");
    for (legs, kind) in
        [1u8, 2].into_iter().flat_map(|legs| ["plain", "AWS-LC", "portable"].map(|k| (legs, k)))
    {
        let mut group = match kind {
            "plain" => NullGroup::new(legs, MEBIBYTES),
            "AWS-LC" => NullGroup::encrypted(legs, MEBIBYTES, &AwsLc),
            _ => NullGroup::encrypted(legs, MEBIBYTES, &Portable),
        };
        let mut state = 88_172_645_463_325_252;
        for depth in [1u16, 32] {
            bench.throughput(Throughput::Elements(u64::from(depth)));
            bench.bench_function(format!("read 4k, {legs} legs, depth {depth}, {kind}"), |b| {
                b.iter(|| group.round(Op::Read, depth, 8, |_| random(&mut state)));
            });
            bench.bench_function(format!("write 4k, {legs} legs, depth {depth}, {kind}"), |b| {
                b.iter(|| group.round(Op::Write, depth, 8, |_| random(&mut state)));
            });
        }
    }
    bench.finish();
}

criterion_group!(benches, engine);
criterion_main!(benches);
