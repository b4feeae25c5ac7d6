//! Preparing texts before they are stored: redaction and digests, off the async threads when they are long.

use super::{Result, Services};
use crate::domain::NewPattern;
use crate::domain::pattern::Fingerprint;
use crate::ports::Priority;
use crate::redaction::redact;

/// Above this many bytes the work goes to the compute threads (about 50 microseconds).
pub(super) const INLINE_BYTES: usize = 8 * 1024;

impl Services {
    /// Redacts the texts of new patterns, if redaction is on, and takes their fingerprints.
    pub(super) async fn prepare(
        &self,
        patterns: Vec<NewPattern>,
        priority: Priority,
    ) -> Result<Vec<(NewPattern, Fingerprint)>> {
        let redaction = self.rules.redaction;
        let bytes: usize = patterns.iter().map(text_bytes).sum();
        let work = move || patterns.into_iter().map(|pattern| prepared(pattern, redaction)).collect();
        if bytes <= INLINE_BYTES { Ok(work()) } else { Ok(self.compute.run(priority, work).await?) }
    }

    /// Redacts texts, if redaction is on.
    pub(super) async fn cleaned(&self, texts: Vec<String>, priority: Priority) -> Result<Vec<String>> {
        if !self.rules.redaction {
            return Ok(texts);
        }
        let bytes: usize = texts.iter().map(String::len).sum();
        let work = move || texts.iter().map(|text| redact(text).text.into_owned()).collect();
        if bytes <= INLINE_BYTES { Ok(work()) } else { Ok(self.compute.run(priority, work).await?) }
    }
}

impl Services {
    /// A text as it may be stored.
    pub(super) async fn redacted(&self, text: String) -> Result<String> {
        if !self.rules.redaction {
            return Ok(text);
        }
        let inline = text.len() <= INLINE_BYTES;
        let work = move || redact(&text).text.into_owned();
        if inline { Ok(work()) } else { Ok(self.compute.run(Priority::Interactive, work).await?) }
    }
}

fn text_bytes(pattern: &NewPattern) -> usize {
    let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    pattern.task.len() + length(&pattern.code) + length(&pattern.output)
}

fn prepared(mut pattern: NewPattern, redaction: bool) -> (NewPattern, Fingerprint) {
    if redaction {
        let texts = [Some(&mut pattern.task), pattern.code.as_mut(), pattern.output.as_mut()];
        for text in texts.into_iter().flatten() {
            let clean = redact(text);
            if !clean.findings.is_empty() {
                *text = clean.text.into_owned();
                pattern.redacted = true;
            }
        }
    }
    let fingerprint = pattern.fingerprint();
    (pattern, fingerprint)
}
