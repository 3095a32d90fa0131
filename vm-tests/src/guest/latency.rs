//! How long a load had to wait: the longest completions by time, and what they are held to.
//!
//! The bar is the requirement: at depth 32 no completion takes longer than a second, whatever happens behind the device
//! ([`BAR`]). It is not loosened for a machine whose every instruction is translated; that keeps it with room. But
//! such a machine shares its host, and what the host does meanwhile can be seen from inside by nobody. So:
//! - beside each measurement a control is taken at the same moment, in which the product does nothing but its work:
//!   how long the same load waits anyway. Where that alone is beyond the bar's [`SHARE`]th part, the machine cannot show
//!   the bar, and the measurement must not be longer than `SHARE` controls. This is said with the result;
//! - a measurement that breaks its bar is taken again, [`ATTEMPTS`] times in all. A host that was busy with something
//!   else is not so each time; a product that is too slow is. Every attempt is told.

use super::Guest;
use super::load::FOLDER;
use crate::error::{Context, Error, Result};
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The longest that a completion may take while something happens behind the device.
pub const BAR: Duration = Duration::from_secs(1);
/// A control beyond this part of the bar shows that the machine is too slow for it.
const SHARE: u32 = 4;
/// How often a measurement is taken until it keeps its bar.
pub const ATTEMPTS: usize = 3;
/// The log tells a completion at most so late.
pub const LATE: Duration = Duration::from_millis(300);

/// A time of the day.
#[must_use]
pub fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The longest completions of a load, each with the time of the day at which it was there.
#[derive(Debug, Default)]
pub struct Latencies(Vec<(Duration, Duration)>);

impl Latencies {
    /// What the load that was logged as `name` left behind, which must have ended.
    ///
    /// # Errors
    /// It left no log, or one of another form.
    pub fn read(name: &str) -> Result<Latencies> {
        let path = Path::new(FOLDER).join(format!("{name}_lat.1.log"));
        let text = fs::read_to_string(&path).doing(|| format!("read {}", path.display()))?;
        let _ = fs::remove_file(&path);
        Self::parse(&text)
    }

    /// Lines of `milliseconds of the day, nanoseconds, ...`.
    fn parse(text: &str) -> Result<Latencies> {
        let entry = |line: &str| {
            let mut numbers = line.split(',').map(|word| word.trim().parse::<u64>().ok());
            let (at, took) = (numbers.next()??, numbers.next()??);
            Some((Duration::from_millis(at), Duration::from_nanos(took)))
        };
        let entries = text.lines().map(|line| {
            entry(line).ok_or_else(|| Error::failed(format!("fio's log of latencies says `{line}`")))
        });
        entries.collect::<Result<Vec<_>>>().map(Latencies)
    }

    /// Takes another load's in.
    pub fn add(&mut self, other: Latencies) {
        self.0.extend(other.0);
    }

    /// The longest of those that were there between two times; `None` if there were none.
    #[must_use]
    pub fn longest(&self, from: Duration, to: Duration) -> Option<Duration> {
        self.0.iter().filter(|(at, _)| (from..=to).contains(at)).map(|(_, took)| *took).max()
    }
}

/// A measurement and its control.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Measured {
    /// The longest completion while it happened.
    pub longest: Duration,
    /// The longest without it, just before.
    pub control: Duration,
}

impl Measured {
    /// What it is held to.
    #[must_use]
    pub fn bar(&self) -> Duration {
        BAR.max(self.control * SHARE)
    }

    /// Whether it keeps that.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.longest <= self.bar()
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let (longest, control) = (self.longest.as_millis(), self.control.as_millis());
        let slow = if self.bar() > BAR { ": too slow a machine for a second" } else { "" };
        format!("{longest} ms ({control} ms just before; at most {} ms{slow})", self.bar().as_millis())
    }
}

impl Guest {
    /// Reports the check of a pause by the last attempts of each measurement.
    pub fn check_pauses(&mut self, last: &[Measured]) {
        let broken: Vec<String> = last.iter().filter(|one| !one.is_kept()).map(Measured::text).collect();
        self.check_that("pause", broken.is_empty() && !last.is_empty(), || {
            format!("also after {ATTEMPTS} attempts: {}", broken.join(", "))
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_longest_within_a_time_is_found() {
        let log = "1000, 5000000, 0, 4096, 0\n2000, 900000000, 1, 4096, 0, 0\n3000, 7000000, 1, 4096, 0\n";
        let log = Latencies::parse(log).expect("a log");
        assert_eq!(log.longest(ms(0), ms(1500)), Some(ms(5)));
        assert_eq!(log.longest(ms(1500), ms(3000)), Some(ms(900)));
        assert_eq!(log.longest(ms(3001), ms(9000)), None);
        assert!(Latencies::parse("1000, x\n").is_err());
    }

    #[test]
    fn the_bar_is_a_second_unless_the_machine_shows_that_it_cannot_keep_it() {
        let kept = |longest, control| Measured { longest: ms(longest), control: ms(control) }.is_kept();
        assert!(kept(1000, 20) && !kept(1001, 20) && !kept(1001, 250));
        assert!(kept(1900, 480) && !kept(2000, 480));
    }
}
