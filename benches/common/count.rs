//! The one option of a benchmark: how often.

use anyhow::Context;

/// What `--count` says, else `default`; at least 1.
pub fn count_or(default: usize) -> anyhow::Result<usize> {
    let mut count = default;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--count" => count = arguments.next().context("--count needs a value")?.parse::<usize>()?.max(1),
            // What `cargo bench` adds.
            "--bench" => {}
            other => anyhow::bail!("unknown option {other}"),
        }
    }
    Ok(count)
}
