//! When keys were last used, to the minute; gathered in memory and written in the background.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::TimeDelta;

use crate::domain::Timestamp;
use crate::store::{ApiKeys, Result};

/// How often uses are written.
pub const FLUSH_EVERY: Duration = Duration::from_millis(500);
/// A key's use is noted so often at most.
const NOTED_EVERY: TimeDelta = TimeDelta::minutes(1);

/// Uses of the last minute.
#[derive(Default)]
pub struct KeyUses(Mutex<HashMap<Arc<str>, Use>>);

struct Use {
    at: Timestamp,
    written: bool,
}

impl KeyUses {
    /// Notes that a key is used now.
    pub fn note(&self, id: &Arc<str>, now: Timestamp) {
        let mut uses = self.lock();
        match uses.get(id) {
            Some(noted) if now - noted.at < NOTED_EVERY => {}
            _ => drop(uses.insert(Arc::clone(id), Use { at: now, written: false })),
        }
    }

    /// Forgets the use of a key whose secret was replaced.
    pub fn forget(&self, id: &str) {
        self.lock().remove(id);
    }

    /// Writes what is new. What cannot be written is kept for the next time.
    pub async fn flush(&self, keys: &dyn ApiKeys, now: Timestamp) -> Result<()> {
        let new: Vec<(String, Timestamp)> = {
            let mut uses = self.lock();
            uses.retain(|_, noted| !noted.written || now - noted.at < NOTED_EVERY);
            uses.iter().filter(|(_, noted)| !noted.written).map(|(id, noted)| (id.to_string(), noted.at)).collect()
        };
        if new.is_empty() {
            return Ok(());
        }
        keys.touch(&new).await?;
        let mut uses = self.lock();
        for (id, at) in &new {
            if let Some(noted) = uses.get_mut(id.as_str()) {
                noted.written |= noted.at == *at;
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Use>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
