//! How long a group waits before its next target is started.
//!
//! Crash story: the guest's requests wait in the kernel all that time, and no pause that it sees may be longer
//! than five seconds, however often the process is killed. A target that served and died is therefore followed
//! at once, and soon even when it dies again and again. Only one that cannot begin to serve (its drives are
//! gone, its group is refused) is tried more and more rarely: there the next start most likely fails too.
use std::time::Duration;

/// Pauses behind targets that served, by the number of deaths in a row; the last one repeats. Together with a
/// start and a recovery (about half a second each on a translated processor) it stays well below five seconds.
const SERVED_MS: [u64; 3] = [0, 100, 500];
/// Pauses behind targets that never came to serve, by their number in a row; the last one repeats. The first
/// eight are short: a process may be killed again while it recovers.
const UNSERVED_MS: [u64; 11] = [0, 100, 500, 1_000, 2_000, 2_000, 2_000, 2_000, 5_000, 10_000, 30_000];
/// A target that served so long is followed at once.
const STEADY: Duration = Duration::from_secs(10);

/// The deaths of one group's targets.
#[derive(Debug, Default)]
pub(super) struct Pauses {
    served: usize,
    unserved: usize,
}

impl Pauses {
    /// Counts a death and says how long to wait. `served_for`: how long the target had served, if it had.
    pub(super) fn next(&mut self, served_for: Option<Duration>) -> Duration {
        let (list, count): (&[u64], _) = match served_for {
            Some(time) => {
                self.unserved = 0;
                self.served = if time > STEADY { 0 } else { self.served };
                (&SERVED_MS, &mut self.served)
            }
            None => (&UNSERVED_MS, &mut self.unserved),
        };
        let pause = list[usize::min(*count, list.len() - 1)];
        *count += 1;
        Duration::from_millis(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The longest pause of a guest was 5.6 s after the fifth kill within a minute, 30 s after the seventh:
    /// kills were counted like starts that fail.
    #[test]
    fn a_target_that_serves_is_followed_soon_however_often_it_is_killed() {
        let mut pauses = Pauses::default();
        assert_eq!(pauses.next(Some(Duration::from_secs(3600))), Duration::ZERO);
        for _ in 0..1000 {
            assert!(pauses.next(Some(Duration::ZERO)) <= Duration::from_secs(1));
        }
        assert_eq!(pauses.next(Some(STEADY * 2)), Duration::ZERO);
    }

    #[test]
    fn starts_that_fail_become_rare_until_one_serves() {
        let mut pauses = Pauses::default();
        let waits: Vec<Duration> = (0..12).map(|_| pauses.next(None)).collect();
        assert!(waits.is_sorted());
        assert_eq!((waits[0], waits[11]), (Duration::ZERO, Duration::from_secs(30)));
        pauses.next(Some(Duration::ZERO));
        assert_eq!(pauses.next(None), Duration::ZERO);
    }
}
