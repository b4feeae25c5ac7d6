//! Standard output, lines that fit a terminal, and progress bars.

use std::io::{self, IsTerminal, Write};

use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};
use serde_json::Value;

/// Columns a line may take on a terminal.
const COLUMNS: usize = 120;

/// Prints a line.
///
/// # Errors
/// When standard output is closed; unlike `println!`, which panics.
pub fn line(text: &str) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{text}")
}

/// Prints a value as one line of JSON.
///
/// # Errors
/// As [`line`].
pub fn json(value: &Value) -> io::Result<()> {
    line(&value.to_string())
}

/// Whether a person reads standard output.
pub fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Prints a line, cut where a terminal would wrap it.
///
/// # Errors
/// As [`line`].
pub fn fitting(text: &str) -> io::Result<()> {
    line(&if is_terminal() { cut(text, COLUMNS) } else { text.to_owned() })
}

/// Foreign text on one line, without control characters, which could steer the terminal.
pub fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !line.is_empty() {
            line.push(' ');
        }
        line.extend(word.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }));
    }
    line
}

fn cut(text: &str, columns: usize) -> String {
    if text.chars().count() <= columns {
        return text.to_owned();
    }
    text.chars().take(columns.saturating_sub(1)).chain(['…']).collect()
}

/// A bar on standard error, gone when dropped; nothing where that is not a terminal. Without a total it only counts.
pub fn progress(verb: &'static str, total: Option<u64>) -> ProgressBar {
    let (bar, template) = match total {
        Some(total) => (ProgressBar::new(total), "{msg} [{bar:30}] {pos}/{len}  {eta} left"),
        None => (ProgressBar::no_length(), "{msg} {pos}"),
    };
    let style = ProgressStyle::with_template(template).expect("a constant template");
    bar.with_style(style.progress_chars("=> ")).with_message(verb).with_finish(ProgressFinish::AndClear)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_cannot_steer_the_terminal() {
        assert_eq!(one_line(" a\n\tb\u{1b}[2J \r\n"), "a b\u{fffd}[2J");
        assert_eq!(one_line(""), "");
    }

    #[test]
    fn long_lines_are_cut_by_characters() {
        assert_eq!(cut("žluťoučký", 9), "žluťoučký");
        assert_eq!(cut("žluťoučký", 5), "žluť…");
    }

    #[test]
    fn templates_are_valid() {
        for total in [None, Some(3)] {
            progress("importing", total).finish_and_clear();
        }
    }
}
