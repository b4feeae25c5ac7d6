//! Types and rules of the domain. No I/O and no `async` below this line; nothing of ours is imported from here.

pub mod adversarial;
pub mod analytics;
pub mod audit;
pub mod credential;
pub mod erasure;
pub mod evidence;
pub mod feedback;
pub mod job;
pub mod overage;
pub mod pattern;
pub mod payment;
pub mod pipeline;
pub mod plan;
pub mod prices;
pub mod record;
pub mod retention;
pub mod scope;
pub mod score;
pub mod spend;
pub mod subject;
pub mod subscription;
pub mod text;
pub mod tier;
pub mod time;

pub use evidence::{Evidence, EvidenceKind, Observation, decayed_score};
pub use feedback::{Feedback, Ratings};
pub use job::{Job, JobOperation, JobState};
pub use pattern::{Classification, NewPattern, Pattern, PatternId, PatternKey, Skill, Source};
pub use plan::{Feature, Plan};
pub use scope::{Caller, Permission, Role, Scope};
pub use subscription::{Month, Subscription};
pub use tier::{ReuseTier, Thresholds};

/// A point in time, UTC, kept to the microsecond in both stores.
pub type Timestamp = chrono::DateTime<chrono::Utc>;

/// Seconds since the epoch with fractions, as the wire shows times of patterns.
pub fn unix_seconds(at: Timestamp) -> f64 {
    // Exact below 2^53 microseconds (the year 2255).
    at.timestamp_micros() as f64 / 1e6
}

/// The inverse of [`unix_seconds`], rounded to the microsecond; `None` outside the years 1900 to 9999.
pub fn from_unix_seconds(seconds: f64) -> Option<Timestamp> {
    const EARLIEST: f64 = -2_208_988_800.0;
    const LATEST: f64 = 253_402_300_799.0;
    if !(EARLIEST..=LATEST).contains(&seconds) {
        return None;
    }
    Timestamp::from_timestamp_micros((seconds * 1e6).round() as i64)
}

/// A value is not one of the accepted words; carries the words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected one of {0:?}")]
pub struct UnknownWord(pub &'static [&'static str]);

/// "Input should be 'a', 'b' or 'c'".
pub fn alternatives(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("Input should be {} or {last}", rest.join(", ")),
        _ => format!("Input should be {}", quoted.concat()),
    }
}

/// Declares an enum whose variants are words on the wire and in the database.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$vdoc])* #[doc = concat!("`", $word, "` on the wire.")] $variant),+
        }

        impl $name {
            /// Every accepted word, in declaration order.
            pub const WORDS: &'static [&'static str] = &[$($word),+];

            /// The word on the wire and in the database.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::domain::UnknownWord;
            fn from_str(word: &str) -> Result<Self, Self::Err> {
                match word { $($word => Ok(Self::$variant),)+ _ => Err($crate::domain::UnknownWord(Self::WORDS)) }
            }
        }
    };
}
pub(crate) use words;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unix_seconds_round_trip_to_the_microsecond() {
        for seconds in [0.0, 1_795_319_203.747_123, -86_400.5, 253_402_300_799.0] {
            let at = from_unix_seconds(seconds).expect("inside the range");
            assert!((unix_seconds(at) - seconds).abs() < 1e-6);
            assert_eq!(from_unix_seconds(unix_seconds(at)), Some(at));
        }
        for bad in [f64::NAN, f64::INFINITY, 1e300, -1e12] {
            assert_eq!(from_unix_seconds(bad), None);
        }
    }
}
