//! Requests of people whose personal data a tenant holds, and the time in which they must be answered
//! (`spec/engramia/30` §11).

use super::{Timestamp, words};

words! {
    /// What somebody asks for.
    RequestType {
        Access = "access",
        Erasure = "erasure",
        Portability = "portability",
        Rectification = "rectification"
    }
}

words! {
    /// Where a request stands.
    RequestStatus {
        Pending = "pending",
        InProgress = "in_progress",
        Completed = "completed",
        Rejected = "rejected"
    }
}

impl RequestStatus {
    /// Whether it still has to be answered.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Pending | Self::InProgress)
    }
}

/// A request of somebody whose personal data a tenant holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubjectRequest {
    /// UUIDv7.
    pub id: String,
    /// What is asked for.
    pub request_type: RequestType,
    /// Who asks.
    pub subject_email: String,
    /// Where it stands.
    pub status: RequestStatus,
    /// When it came in.
    pub created_at: Timestamp,
    /// By when it must be answered.
    pub due_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
    /// When it was completed or rejected.
    pub completed_at: Option<Timestamp>,
    /// What its handlers remarked, a line each time.
    pub handler_notes: String,
}

impl SubjectRequest {
    /// Longest address, in characters.
    pub const MAX_EMAIL: usize = 320;
    /// Longest remark at a time, in characters.
    pub const MAX_NOTE: usize = 10_000;
    /// Longest remarks together, in characters.
    pub const MAX_NOTES: usize = 100_000;

    /// Whether its time is over and it is not answered.
    pub fn is_overdue(&self, now: Timestamp) -> bool {
        self.status.is_open() && self.due_at < now
    }

    /// Moves it on and adds a remark, unless that is empty; `false`, and nothing is changed, if there are too many
    /// remarks already.
    pub fn handle(&mut self, status: RequestStatus, note: &str, now: Timestamp) -> bool {
        if !note.is_empty() {
            if self.handler_notes.chars().count() + note.chars().count() + 1 > Self::MAX_NOTES {
                return false;
            }
            if !self.handler_notes.is_empty() {
                self.handler_notes.push('\n');
            }
            self.handler_notes.push_str(note);
        }
        // A remark about what is answered already leaves the time of the answer alone.
        if self.status != status {
            self.completed_at = (!status.is_open()).then_some(now);
        }
        self.status = status;
        self.updated_at = now;
        true
    }
}

/// Whether a text looks like an e-mail address: a name, one `@`, and a domain of at least two parts.
pub fn is_address(text: &str) -> bool {
    let Some((name, domain)) = text.rsplit_once('@') else { return false };
    let part = |part: &str| {
        !part.is_empty() && !part.starts_with('-') && part.chars().all(|c| c.is_alphanumeric() || c == '-')
    };
    let plain = |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, '@' | ',' | ';' | '<' | '>');
    !name.is_empty() && name.chars().all(plain) && domain.contains('.') && domain.split('.').all(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_from_other_texts() {
        for good in ["x@y.z", "jana.nová+1@příklad.cz", "o'neil@mail.example.org"] {
            assert!(is_address(good), "{good}");
        }
        for bad in ["", "@", "x", "x@y", "@y.z", "x@y.", "x@.z", "x y@z.cz", "a@b@c.cz", "x@y..z", "x@-y.z", "x@y.z\n"]
        {
            assert!(!is_address(bad), "{bad:?}");
        }
    }

    #[test]
    fn the_time_of_the_answer_is_that_of_the_last_change_of_its_state() {
        let at = |seconds| Timestamp::UNIX_EPOCH + chrono::TimeDelta::seconds(seconds);
        let mut request = SubjectRequest {
            id: "1".into(),
            request_type: RequestType::Access,
            subject_email: "x@y.z".into(),
            status: RequestStatus::Pending,
            created_at: at(0),
            due_at: at(10),
            updated_at: at(0),
            completed_at: None,
            handler_notes: String::new(),
        };
        assert!(!request.is_overdue(at(10)) && request.is_overdue(at(11)));
        assert!(request.handle(RequestStatus::Completed, "done", at(20)));
        assert!(request.handle(RequestStatus::Completed, "told her", at(21)));
        assert_eq!((request.completed_at, request.handler_notes.as_str()), (Some(at(20)), "done\ntold her"));
        assert!(!request.is_overdue(at(99)));
        assert!(request.handle(RequestStatus::InProgress, "", at(22)));
        assert_eq!((request.completed_at, request.updated_at), (None, at(22)));
        assert!(!request.handle(RequestStatus::Rejected, &"x".repeat(SubjectRequest::MAX_NOTES), at(23)));
        assert_eq!(request.status, RequestStatus::InProgress);
    }
}
