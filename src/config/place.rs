//! Stores and databases that an argument of the command line names.

use std::path::PathBuf;

use secrecy::SecretString;

use super::{Database, Storage};

/// Connections of a command, which does one thing after the other.
const POOL: u32 = 4;
/// What a variable is named by, instead of its value.
const VARIABLE: &str = "env:";

/// Why an argument names nothing.
#[derive(Debug, thiserror::Error)]
pub enum BadPlace {
    /// The variable has no value.
    #[error("the environment variable {0} is not set")]
    Unset(String),
    /// A database was expected.
    #[error("expected postgres://.. or env:NAME, the name of a variable that holds such a URL")]
    NoDatabase,
    /// Nothing was given.
    #[error("expected a directory, postgres://.. or env:NAME")]
    Empty,
}

/// The store at a data directory, at a URL, or at the URL that a variable holds.
///
/// # Errors
/// When the variable has no value, or nothing is named.
pub fn store_at(argument: &str) -> Result<Storage, BadPlace> {
    let place = resolved(argument, variable)?;
    if is_database(&place) {
        return Ok(Storage::Postgres(Database { url: place.into(), pool_size: POOL, search_memory_bytes: 0 }));
    }
    if place.is_empty() || place.contains("://") {
        return Err(BadPlace::Empty);
    }
    Ok(Storage::Embedded { root: PathBuf::from(place) })
}

/// The database at a URL, or at the URL that a variable holds.
///
/// # Errors
/// When the variable has no value, or the text is no such URL.
pub fn database_at(argument: &str) -> Result<SecretString, BadPlace> {
    let place = resolved(argument, variable)?;
    if is_database(&place) { Ok(place.into()) } else { Err(BadPlace::NoDatabase) }
}

fn variable(name: &str) -> Option<String> {
    std::env::vars_os().find(|(known, _)| known == name)?.1.into_string().ok()
}

fn resolved(argument: &str, variable: impl Fn(&str) -> Option<String>) -> Result<String, BadPlace> {
    let place = match argument.trim().strip_prefix(VARIABLE) {
        Some(name) => variable(name).ok_or_else(|| BadPlace::Unset(name.to_owned()))?,
        None => argument.to_owned(),
    };
    Ok(place.trim().to_owned())
}

fn is_database(place: &str) -> bool {
    place.starts_with("postgres://") || place.starts_with("postgresql://")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_name_directories_and_databases() {
        assert!(matches!(store_at("./data"), Ok(Storage::Embedded { root }) if root.as_os_str() == "./data"));
        assert!(matches!(store_at("postgresql://u:p@h/d"), Ok(Storage::Postgres(_))));
        assert!(matches!(store_at(" "), Err(BadPlace::Empty)));
        assert!(matches!(store_at("mysql://h/d"), Err(BadPlace::Empty)), "no directory of that name");
        assert!(database_at("postgres://h/d").is_ok());
        assert!(matches!(database_at("./data"), Err(BadPlace::NoDatabase)));
    }

    #[test]
    fn a_variable_stands_for_its_value() {
        let variables = |name: &str| (name == "URL").then(|| " postgres://u:p@h/d\n".to_owned());
        assert_eq!(resolved("env:URL", variables).expect("set"), "postgres://u:p@h/d");
        let error = resolved("env:OTHER", variables).expect_err("unset");
        assert_eq!(error.to_string(), "the environment variable OTHER is not set");
    }
}
