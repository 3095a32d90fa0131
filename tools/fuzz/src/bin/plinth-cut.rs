//! `plinth-cut`: opens many images of one power cut in memory.
//!
//! Prints a line for each image that is wrong, with the seed that makes it again, and a closing line. Exits with 0 when
//! all were right, 1 when one was not or the drives cannot be read, 2 on words it does not know.
use plinth_fuzz::cut::{Cut, Figures, Ground};
use plinth_fuzz::random::Random;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use vm_tests::oracle::Oracle;
use vm_tests::writelog::Manner;

const USAGE: &str =
    "plinth-cut [--images N] [--seed S | --only SEED] [--sector-bytes N] [--lies] [--files] [--scratch FOLDER]
           [--keys FOLDER] --oracle FILE (DRIVE LOG)...
  --images N         images, each with another choice of the unflushed writes (40 unless said)
  --seed S           where the seeds of images begin (1 unless said)
  --only SEED        only the image of this seed, as a failure names it
  --sector-bytes N   what a drive tears at (512 unless said)
  --lies             the drives lie about flushes: images must be wrong, or nothing is seen here
  --files            the volume holds an ext4
  --scratch FOLDER   where volumes with an ext4 are put (the temporary folder unless said)
  --keys FOLDER      keys in files, of encrypted volumes
  --oracle FILE      what the volume may hold
  DRIVE LOG          a drive as it was before its log began, and its log";

/// What was asked for.
struct Asked {
    images: u64,
    seed: u64,
    only: Option<u64>,
    sector_bytes: u32,
    lies: bool,
    has_files: bool,
    scratch: PathBuf,
    keys: PathBuf,
    oracle: PathBuf,
    drives: Vec<PathBuf>,
}

fn main() -> ExitCode {
    let Some(asked) = parse(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match load(&asked) {
        Ok(cut) => run(&cut, &asked),
        Err(why) => {
            eprintln!("plinth-cut: {why}");
            ExitCode::FAILURE
        }
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Option<Asked> {
    let mut asked = Asked {
        images: 40,
        seed: 1,
        only: None,
        sector_bytes: 512,
        lies: false,
        has_files: false,
        scratch: std::env::temp_dir(),
        keys: PathBuf::new(),
        oracle: PathBuf::new(),
        drives: Vec::new(),
    };
    while let Some(word) = words.next() {
        match word.as_str() {
            "--images" => asked.images = words.next()?.parse().ok()?,
            "--seed" => asked.seed = words.next()?.parse().ok()?,
            "--only" => asked.only = Some(words.next()?.parse().ok()?),
            "--sector-bytes" => asked.sector_bytes = words.next()?.parse().ok()?,
            "--lies" => asked.lies = true,
            "--files" => asked.has_files = true,
            "--scratch" => asked.scratch = PathBuf::from(words.next()?),
            "--keys" => asked.keys = PathBuf::from(words.next()?),
            "--oracle" => asked.oracle = PathBuf::from(words.next()?),
            flag if flag.starts_with('-') => return None,
            path => asked.drives.push(PathBuf::from(path)),
        }
    }
    let complete = !asked.drives.is_empty() && asked.drives.len().is_multiple_of(2);
    let sectors = [512, 4096].contains(&asked.sector_bytes);
    (complete && sectors && asked.oracle != Path::new("")).then_some(asked)
}

fn load(asked: &Asked) -> Result<Cut, String> {
    let text = std::fs::read_to_string(&asked.oracle);
    let text = text.map_err(|error| format!("cannot read {}: {error}", asked.oracle.display()))?;
    let oracle =
        Oracle::from_text(&text).ok_or_else(|| format!("{} is no oracle", asked.oracle.display()))?;
    let manner = Manner { lies: asked.lies, ..Manner::with_sectors_of(asked.sector_bytes) };
    let mut grounds = Vec::new();
    for pair in asked.drives.chunks_exact(2) {
        let ground = Ground::load(&pair[0], &pair[1], manner);
        grounds.push(ground.map_err(|error| format!("cannot read {}: {error}", pair[0].display()))?);
    }
    let (has_files, scratch, keys) = (asked.has_files, asked.scratch.clone(), asked.keys.clone());
    Ok(Cut { grounds, oracle, manner, has_files, scratch, keys })
}

fn run(cut: &Cut, asked: &Asked) -> ExitCode {
    let start = std::time::Instant::now();
    let mut random = Random::new(asked.seed);
    let seeds: Vec<u64> = match asked.only {
        Some(seed) => vec![seed],
        None => (0..asked.images).map(|_| random.next()).collect(),
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(seeds.len());
    let (next, failed) = (AtomicU64::new(0), AtomicU64::new(0));
    let work = || {
        let mut figures = Figures::default();
        while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
            match cut.judge(*seed) {
                Ok(one) => figures.add(one),
                Err(why) => {
                    failed.fetch_add(1, Ordering::Relaxed);
                    println!("image {seed}: {why}");
                }
            }
        }
        figures
    };
    let mut all = Figures::default();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .for_each(|thread| all.add(thread.join().expect("a panic is caught in the image")));
    });
    let at_risk: usize = cut.grounds.iter().map(Ground::at_risk).sum();
    let failed = failed.into_inner();
    println!(
        "images: {} right, {failed} failed, {} ms; {at_risk} writes at risk: {} times kept, {} dropped, {} torn; {} cuts in \
         recovery, {} behind it; {} blocks and {} files compared",
        all.images,
        start.elapsed().as_millis(),
        all.kept,
        all.dropped,
        all.torn,
        all.again,
        all.later,
        all.blocks,
        all.files
    );
    ExitCode::from(u8::from(failed > 0))
}
