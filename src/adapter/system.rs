//! The machine's clock and randomness; nothing else in the program reads them.

use chrono::{SubsecRound, Utc};

use crate::domain::Timestamp;
use crate::ports::{Clock, Entropy};

/// The clock of the system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        // What a store gives back is equal to what it was given: both keep microseconds.
        Utc::now().trunc_subsecs(6)
    }
}

/// The random numbers of the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsEntropy;

impl Entropy for OsEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        getrandom::fill(bytes).expect("every supported system has randomness; keys made without it would be guessable");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_has_whole_microseconds() {
        let now = SystemClock.now();
        assert_eq!(Timestamp::from_timestamp_micros(now.timestamp_micros()), Some(now));
    }

    #[test]
    fn bytes_are_filled_and_differ() {
        let (mut one, mut two) = ([0; 32], [0; 32]);
        OsEntropy.fill(&mut one);
        OsEntropy.fill(&mut two);
        assert_ne!(one, two);
        assert_ne!(one, [0; 32]);
    }
}
