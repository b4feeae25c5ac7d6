//! How long patterns are kept: the days that a project, its tenant or the installation says (`spec/engramia/30` §7).

use chrono::TimeDelta;

use super::{Timestamp, words};

/// Longest retention in days.
pub const MOST_DAYS: u32 = 36_500;

words! {
    /// Who says how long patterns of a project are kept.
    RetentionSource {
        Project = "project",
        Tenant = "tenant",
        /// Neither: the installation does.
        Default = "default"
    }
}

words! {
    /// Whose retention is set.
    RetentionLevel {
        Project = "project",
        /// For all its projects that set none.
        Tenant = "tenant"
    }
}

/// What a project and its tenant have set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RetentionDays {
    /// The project.
    pub project: Option<u32>,
    /// The tenant.
    pub tenant: Option<u32>,
}

/// What holds for a project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Days; `None` for ever.
    pub days: Option<u32>,
    /// Who says so.
    pub source: RetentionSource,
}

impl RetentionDays {
    /// What holds, the nearest first.
    pub fn effective(self, default: Option<u32>) -> Retention {
        match (self.project, self.tenant) {
            (Some(_), _) => Retention { days: self.project, source: RetentionSource::Project },
            (None, Some(_)) => Retention { days: self.tenant, source: RetentionSource::Tenant },
            (None, None) => Retention { days: default, source: RetentionSource::Default },
        }
    }

    /// What is set at a level.
    pub fn at(self, level: RetentionLevel) -> Option<u32> {
        match level {
            RetentionLevel::Project => self.project,
            RetentionLevel::Tenant => self.tenant,
        }
    }
}

impl Retention {
    /// What was made before this time is too old; `None` where nothing ever is.
    pub fn cutoff(self, now: Timestamp) -> Option<Timestamp> {
        self.days.map(|days| now - TimeDelta::days(i64::from(days)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_decides() {
        let effective = |project, tenant, default| {
            let Retention { days, source } = RetentionDays { project, tenant }.effective(default);
            (days, source)
        };
        assert_eq!(effective(Some(1), Some(2), Some(3)), (Some(1), RetentionSource::Project));
        assert_eq!(effective(None, Some(2), Some(3)), (Some(2), RetentionSource::Tenant));
        assert_eq!(effective(None, None, Some(3)), (Some(3), RetentionSource::Default));
        assert_eq!(effective(None, None, None), (None, RetentionSource::Default));
    }

    #[test]
    fn days_are_counted_back_from_now() {
        let now = Timestamp::UNIX_EPOCH + TimeDelta::days(100);
        let retention = |days| Retention { days, source: RetentionSource::Project };
        assert_eq!(retention(Some(100)).cutoff(now), Some(Timestamp::UNIX_EPOCH));
        assert!(retention(Some(MOST_DAYS)).cutoff(now).is_some_and(|at| at < Timestamp::UNIX_EPOCH));
        assert_eq!(retention(None).cutoff(now), None);
    }
}
