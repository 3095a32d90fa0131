//! The running hash over everything that happens, so that two runs can be compared by one number.

/// A hash that every event enters, in order; optionally prints the events.
#[derive(Clone, Debug)]
pub struct Trace {
    hash: u64,
    events: u64,
    /// Print each event to stderr.
    pub verbose: bool,
}

impl Trace {
    /// An empty trace.
    pub fn new() -> Self {
        Self { hash: 0x51_7c_c1_b7_27_22_0a_95, events: 0, verbose: false }
    }

    /// Enters an event: its kind (a letter or two) and its numbers.
    pub fn event(&mut self, kind: &[u8; 2], numbers: [u64; 4]) {
        self.events += 1;
        self.mix(u64::from(u16::from_le_bytes(*kind)));
        for number in numbers {
            self.mix(number);
        }
    }

    /// Prints a line when verbose; costs nothing else.
    pub fn say(&self, line: impl FnOnce() -> String) {
        if self.verbose {
            eprintln!("{}", line());
        }
    }

    fn mix(&mut self, number: u64) {
        let folded = u128::from(self.hash ^ number ^ 0xa076_1d64_78bd_642f)
            * u128::from(number.rotate_left(32) ^ 0xe703_7ed1_a0b4_28db);
        self.hash = (self.hash.rotate_left(23)) ^ (folded as u64) ^ ((folded >> 64) as u64);
    }

    /// The hash of everything so far.
    pub fn hash(&self) -> u64 {
        let mut state = self.hash ^ self.events;
        crate::rng::splitmix(&mut state)
    }

    /// How many events entered.
    pub fn events(&self) -> u64 {
        self.events
    }
}

impl Default for Trace {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_content_matter() {
        let run = |events: &[[u64; 4]]| {
            let mut trace = Trace::new();
            for event in events {
                trace.event(b"xx", *event);
            }
            trace.hash()
        };
        assert_eq!(run(&[[1, 2, 3, 4]]), run(&[[1, 2, 3, 4]]));
        assert_ne!(run(&[[1, 2, 3, 4]]), run(&[[1, 2, 4, 3]]));
        assert_ne!(run(&[[1, 0, 0, 0], [2, 0, 0, 0]]), run(&[[2, 0, 0, 0], [1, 0, 0, 0]]));
        assert_ne!(run(&[]), run(&[[0; 4]]));
    }
}
