//! Generated files that are checked in are up to date.

use std::fs;
use std::path::Path;

use engramia::config;

fn text(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

#[test]
fn env_example_is_up_to_date() {
    assert_eq!(text(".env.example"), config::env_example(), "write it again: engramia config env > .env.example");
}

#[test]
fn the_documented_settings_are_up_to_date() {
    let page = text("docs/configuration.md");
    let (_, rest) = page.split_once("<!-- settings:begin -->\n").expect("the first marker");
    let (table, _) = rest.split_once("<!-- settings:end -->").expect("the last marker");
    assert_eq!(table.trim(), config::markdown_table().trim(), "put the new table between the markers of the page");
}
