//! How a command fails: what is said on standard error, and the exit code that scripts go by.

use std::io;
use std::process::ExitCode;

use super::refusal::Refusal;

/// Failures with an exit code of their own; every other error is 1.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Arguments that do not go together: 2.
    #[error("{0}")]
    Usage(&'static str),
    /// Nobody answers: 3.
    #[error("cannot reach {url}: {reason}")]
    Unreachable {
        /// Address of the server.
        url: String,
        /// The innermost cause.
        reason: String,
    },
    /// The server answered with an error: 4 for 401 and 403, else 1.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The answer was printed and says what is wrong: 1.
    #[error("")]
    Reported,
    /// The user pressed Ctrl-C: 130, as shells have it.
    #[error("interrupted")]
    Interrupted,
}

impl Failure {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Unreachable { .. } => 3,
            Self::Refused(refusal) if refusal.is_about_credentials() => 4,
            Self::Refused(_) | Self::Reported => 1,
            Self::Interrupted => 130,
        }
    }
}

/// Tells the user, and gives the exit code.
pub fn report(error: &anyhow::Error) -> ExitCode {
    if is_closed_pipe(error) {
        // Whoever reads the output has seen enough, as `head` does.
        return ExitCode::SUCCESS;
    }
    let failure = error.downcast_ref::<Failure>();
    if !matches!(failure, Some(Failure::Reported)) {
        for line in told(error).lines() {
            eprintln!("engramia: {line}");
        }
    }
    ExitCode::from(failure.map_or(1, Failure::exit_code))
}

/// The error and its causes. Some libraries repeat a cause in the text of what it caused: once is enough.
fn told(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string).filter(|cause| !cause.is_empty()) {
        if !text.contains(&cause) {
            let colon = if text.is_empty() { "" } else { ": " };
            text.extend([colon, &cause]);
        }
    }
    text
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn exit_codes_survive_context() {
        let unreachable = Failure::Unreachable { url: "http://h".into(), reason: "refused".into() };
        let error = Err::<(), _>(unreachable).context("importing").unwrap_err();
        assert_eq!(report(&error), ExitCode::from(3));
        assert_eq!(format!("{error:#}"), "importing: cannot reach http://h: refused");
        assert_eq!(report(&anyhow::anyhow!("other")), ExitCode::from(1));
        assert_eq!(report(&Failure::Usage("no").into()), ExitCode::from(2));
    }

    #[test]
    fn a_cause_is_told_once() {
        let full = || anyhow::anyhow!("the disk is full");
        assert_eq!(
            told(&full().context("writing: the disk is full").context("backing up")),
            "backing up: writing: the disk is full"
        );
        assert_eq!(told(&full().context("backing up")), "backing up: the disk is full");
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        assert_eq!(report(&io::Error::from(io::ErrorKind::BrokenPipe).into()), ExitCode::SUCCESS);
    }
}
