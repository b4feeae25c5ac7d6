//! Secrets in files, as Docker and Kubernetes hand them over: `NAME_FILE` names a file whose first line is the value of
//! the secret `NAME`.

use std::collections::BTreeMap;
use std::fs;

use super::parse::printable;
use super::{Finding, settings};

/// Puts the values of all such files in the place of their names; the findings say what is wrong.
///
/// An empty file counts as unset, as an empty variable does.
pub fn fill(vars: &mut BTreeMap<String, String>, findings: &mut Vec<Finding>) {
    for name in settings::secrets() {
        let variable = settings::file_variable(name);
        let Some(path) = vars.remove(&variable) else {
            continue;
        };
        match first_line(&path) {
            Ok(value) if value.is_empty() => {}
            Ok(value) if !vars.contains_key(name) => drop(vars.insert(name.to_owned(), value)),
            result => findings.push(Finding {
                name: variable,
                value: printable(&path),
                problem: result.err().unwrap_or_else(|| format!("{name} is set, too")),
                accepted: format!("a file whose first line is the secret, and {name} unset"),
            }),
        }
    }
}

fn first_line(path: &str) -> Result<String, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("cannot be read: {error}"))?;
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}
