//! Renders the settings table as `.env.example` and as Markdown. Both files are checked in; a test compares
//! them with these functions.

use std::fmt::Write;

use super::compose;
use super::settings::{self, RESERVED, Section};

/// The text of `.env.example`: every setting, commented out, with its default.
pub fn env_example() -> String {
    let mut text = String::from(
        "# Settings of Engramia. Generated from the settings table; do not edit.\n\
         # Every line is optional: what is commented out has the value shown. An empty value counts as unset.\n\
         # A secret NAME can lie in a file: NAME_FILE is its path.\n",
    );
    for section in sections() {
        push(&mut text, format_args!("\n# ---- {} ----\n", section.title));
        for row in section.rows {
            push(
                &mut text,
                format_args!("\n# {}\n# Accepts: {}\n#{}={}\n", row.about, row.accepts, row.name, row.default),
            );
        }
    }
    text
}

/// The settings, then what only the Compose files read.
fn sections() -> impl Iterator<Item = Section> {
    settings::sections().into_iter().chain(compose::sections())
}

/// The settings as Markdown, one table a section, followed by the names that have no effect yet.
pub fn markdown_table() -> String {
    let mut text = String::new();
    for section in sections() {
        push(
            &mut text,
            format_args!(
                "### {}\n\n| Variable | Default | Accepts | Description |\n|---|---|---|---|\n",
                section.title
            ),
        );
        for row in section.rows {
            let default = match row.default {
                "" => "—".to_owned(),
                default => format!("`{default}`"),
            };
            push(&mut text, format_args!("| `{}` | {default} | {} | {} |\n", row.name, row.accepts, row.about));
        }
        text.push('\n');
    }
    text.push_str(
        "### Known, without effect in this version\n\nSetting one of these gives a warning; \
         `*` stands for any rest.\n\n",
    );
    for name in RESERVED {
        push(&mut text, format_args!("- `{name}`\n"));
    }
    text
}

fn push(text: &mut String, piece: std::fmt::Arguments<'_>) {
    text.write_fmt(piece).expect("writing to a String cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    /// The assignments of `.env.example` as if every line were switched on.
    fn assignments(text: &str) -> Vec<(String, String)> {
        text.lines()
            .filter_map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')))
            .filter_map(|line| line.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }

    #[test]
    fn env_example_names_every_setting_and_parses_back_into_the_defaults() {
        let vars = assignments(&env_example());
        let named: Vec<_> = vars.iter().map(|(name, _)| name.as_str()).collect();
        let known: Vec<_> = sections().flat_map(|section| section.rows).map(|row| row.name).collect();
        assert_eq!(named, known);

        let read_back = Config::load(vars).expect("valid").config;
        let defaults = Config::load([]).expect("valid").config;
        assert_eq!(format!("{read_back:?}"), format!("{defaults:?}"));
    }

    #[test]
    fn every_line_of_env_example_is_a_comment_or_empty() {
        assert!(env_example().lines().all(|line| line.is_empty() || line.starts_with('#')));
    }

    #[test]
    fn markdown_has_four_cells_a_row_and_every_name() {
        let markdown = markdown_table();
        for line in markdown.lines().filter(|line| line.starts_with('|')) {
            assert_eq!(line.matches('|').count(), 5, "{line}");
        }
        for row in sections().flat_map(|section| section.rows) {
            assert!(markdown.contains(&format!("| `{}` |", row.name)), "{}", row.name);
        }
        for name in RESERVED {
            assert!(markdown.contains(&format!("- `{name}`\n")), "{name}");
        }
    }
}
