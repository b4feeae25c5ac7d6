//! Reading what the user gives: numbers of options, texts of files.

use std::io::Read;
use std::path::Path;

use anyhow::Context;

/// A finite number: JSON has no other.
pub fn number(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|number: &f64| number.is_finite()).ok_or_else(|| "not a number".to_owned())
}

/// The text of a file, or of standard input for `-`.
///
/// # Errors
/// When it cannot be read or is not UTF-8.
pub fn read_text(path: &Path) -> anyhow::Result<String> {
    if path.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().lock().read_to_string(&mut text).context("reading standard input")?;
        return Ok(text);
    }
    std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_finite_numbers_are_numbers() {
        assert_eq!(number("8.5"), Ok(8.5));
        assert_eq!(number("1e1"), Ok(10.0));
        for bad in ["", "x", "nan", "inf", "-inf", "8,5"] {
            assert!(number(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_file_that_is_not_text_is_refused_by_its_name() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("code.bin");
        std::fs::write(&path, [0xff, 0xfe]).expect("written");
        assert!(format!("{:#}", read_text(&path).unwrap_err()).contains("code.bin"));
        std::fs::write(&path, "x = 1\n").expect("written");
        assert_eq!(read_text(&path).expect("text"), "x = 1\n");
    }
}
