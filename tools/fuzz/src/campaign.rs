//! A campaign: inputs are mutated and tried, and those that take a way not seen before are kept to mutate from.
use crate::corpus;
use crate::mutate::mutate;
use crate::panics::caught;
use crate::random::Random;
use crate::targets::Target;
use std::collections::{BTreeMap, HashSet};
use std::io;
use std::time::{Duration, Instant};

/// Inputs to mutate from at most; beyond it a new one takes the place of another.
const MAX_POOL: usize = 512;

/// When a campaign ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Limit {
    /// After so many mutated inputs.
    Inputs(u64),
    /// After this time.
    Time(Duration),
}

/// What a campaign came to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Figures {
    /// Inputs tried, those of the corpus included.
    pub inputs: u64,
    /// Inputs that broke something.
    pub crashes: u64,
    /// Ways that were seen.
    pub ways: usize,
    /// By place and message of the panic: one input that leads there.
    pub broken: BTreeMap<String, Vec<u8>>,
}

/// A campaign against one target.
pub struct Campaign<'a> {
    target: &'a Target,
    random: Random,
    pool: Vec<Vec<u8>>,
    fresh: Vec<Vec<u8>>,
    seen: HashSet<u64>,
    figures: Figures,
}

impl<'a> Campaign<'a> {
    /// Begins with the target's own seeds and its corpus.
    ///
    /// # Errors
    /// The corpus cannot be read.
    pub fn new(target: &'a Target, seed: u64) -> io::Result<Self> {
        let random = Random::new(seed);
        let (pool, fresh, seen) = (Vec::new(), Vec::new(), HashSet::new());
        let mut campaign = Self { target, random, pool, fresh, seen, figures: Figures::default() };
        for input in (target.seeds)() {
            campaign.attempt(input);
        }
        for (_, input) in corpus::load(target.name)? {
            campaign.attempt(input);
        }
        // What is there already takes no room of what is to come.
        campaign.fresh.clear();
        Ok(campaign)
    }

    /// Tries mutated inputs up to the limit.
    pub fn run(&mut self, limit: Limit) {
        let start = Instant::now();
        let mut tried = 0;
        while match limit {
            Limit::Inputs(inputs) => tried < inputs,
            Limit::Time(time) => start.elapsed() < time,
        } {
            let mut input = match self.pool.as_slice() {
                [] => Vec::new(),
                pool => self.random.pick(pool).clone(),
            };
            mutate(&mut input, &self.pool, self.target.words, &mut self.random);
            self.attempt(input);
            tried += 1;
        }
    }

    fn attempt(&mut self, input: Vec<u8>) {
        self.figures.inputs += 1;
        match caught(|| (self.target.run)(&input)) {
            Ok(signature) => {
                if self.seen.insert(signature.get()) {
                    self.figures.ways = self.seen.len();
                    self.fresh.push(input.clone());
                    self.take(input);
                }
            }
            Err(place) => {
                self.figures.crashes += 1;
                let shortest = self.figures.broken.entry(place).or_insert_with(|| input.clone());
                if input.len() < shortest.len() {
                    *shortest = input;
                }
            }
        }
    }

    fn take(&mut self, input: Vec<u8>) {
        if self.pool.len() < MAX_POOL {
            self.pool.push(input);
        } else {
            let at = self.random.below(MAX_POOL);
            self.pool[at] = input;
        }
    }

    /// Writes crashes, and as many new inputs as the corpus has room for, to the corpus.
    ///
    /// # Errors
    /// The files'.
    pub fn keep(&self, new_ways: bool) -> io::Result<()> {
        for input in self.figures.broken.values() {
            let path = corpus::keep(self.target.name, "crash-", input)?;
            println!("kept {}", path.display());
        }
        let there = corpus::load(self.target.name)?.len();
        let room = corpus::MAX_FILES.saturating_sub(there);
        let small = self.fresh.iter().filter(|input| input.len() <= corpus::MAX_KEPT_BYTES);
        for input in small.take(if new_ways { room } else { 0 }) {
            corpus::keep(self.target.name, "", input)?;
        }
        Ok(())
    }

    /// What it has come to so far.
    pub fn figures(&self) -> &Figures {
        &self.figures
    }
}
