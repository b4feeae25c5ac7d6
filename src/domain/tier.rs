//! Reuse tiers and the calibrated confidence of a match (decision 18).

use super::words;

words! {
    /// What a caller should do with a match.
    ReuseTier { Duplicate = "duplicate", Adapt = "adapt", Fresh = "fresh" }
}

/// Borders between the tiers, on the plain cosine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Thresholds {
    /// At and above: use as it is. Guide: 0.92.
    pub duplicate: f64,
    /// At and above: modify. Guide: 0.70.
    pub adapt: f64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { duplicate: 0.92, adapt: 0.70 }
    }
}

impl Thresholds {
    /// Tier of a similarity in [0, 1].
    pub fn tier(&self, similarity: f64) -> ReuseTier {
        if similarity >= self.duplicate {
            ReuseTier::Duplicate
        } else if similarity >= self.adapt {
            ReuseTier::Adapt
        } else {
            ReuseTier::Fresh
        }
    }
}

/// Monotone map from cosine to the probability that a match serves the task.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Calibration {
    /// `1 / (1 + exp(-(slope * cosine + offset)))`, fitted offline on labelled pairs.
    Logistic {
        /// Steepness per unit of cosine, positive.
        slope: f64,
        /// Value of the exponent at cosine 0.
        offset: f64,
    },
    /// Nothing is known about the space: the cosine itself.
    Identity,
}

impl Calibration {
    /// The curve of the built-in model, fitted where half of the queries have no right answer in the memory
    /// (`docs/recall.md`; 0.5 at cosine 0.82).
    pub const BUILT_IN: Self = Self::Logistic { slope: 9.9, offset: -8.1 };

    /// Confidence in [0, 1] for a similarity in [0, 1].
    pub fn confidence(self, similarity: f64) -> f64 {
        match self {
            Self::Logistic { slope, offset } => 1.0 / (1.0 + (-(slope * similarity + offset)).exp()),
            Self::Identity => similarity,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiers_follow_the_guide() {
        let t = Thresholds::default();
        assert_eq!(t.tier(0.92), ReuseTier::Duplicate);
        assert_eq!(t.tier(0.919_999), ReuseTier::Adapt);
        assert_eq!(t.tier(0.70), ReuseTier::Adapt);
        assert_eq!(t.tier(0.699_999), ReuseTier::Fresh);
    }

    #[test]
    fn confidence_is_monotone_and_bounded() {
        for curve in [Calibration::BUILT_IN, Calibration::Identity] {
            let mut last = -1.0;
            for step in 0..=100 {
                let c = curve.confidence(f64::from(step) / 100.0);
                assert!((0.0..=1.0).contains(&c) && c > last);
                last = c;
            }
        }
        assert!((Calibration::BUILT_IN.confidence(8.1 / 9.9) - 0.5).abs() < 1e-12);
    }
}
