//! From the driver's errors to those of the storage layer.

use crate::store::StoreError;

/// SQLSTATE of a transaction that lost against another and may be tried again: serialization failure, deadlock.
const CONTENDED: [&str; 2] = ["40001", "40P01"];

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let code = error.as_database_error().and_then(|error| error.code());
        if code.is_some_and(|code| CONTENDED.contains(&&*code)) {
            return Self::Contended(anyhow::Error::new(error));
        }
        Self::Backend(anyhow::Error::new(error))
    }
}
