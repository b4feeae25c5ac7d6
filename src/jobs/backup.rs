//! Backups once in so long a time. Of several workers one makes each; whoever starts first makes the first at once.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use anyhow::Context;
use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};

use super::Worker;
use crate::config::Backups;
use crate::domain::Timestamp;
use crate::store::backup::{Due, Order, remove_stale};

/// How often a worker looks whether a backup is due.
const LOOK: Duration = Duration::from_secs(60);
/// When it is tried again where none was made.
const AGAIN: TimeDelta = TimeDelta::hours(1);
const LONGEST: TimeDelta = TimeDelta::days(36_500);
/// Name of the turn that workers take.
const TURN: &str = "backup";
const BEGIN: &str = "engramia-";
const END: &str = ".tar";
/// The time between.
const TIME: &str = "%Y%m%dT%H%M%SZ";

/// Goes on for ever, where backups are wanted.
pub async fn run(worker: Arc<Worker>) {
    let Some(settings) = worker.settings.backups.clone() else { return };
    // A century is as good as any longer time, and times can be reckoned with it.
    let every = TimeDelta::from_std(settings.every).map_or(LONGEST, |every| every.min(LONGEST));
    let due = Due { every, again: every.min(AGAIN) };
    let mut tick = tokio::time::interval(LOOK.min(settings.every));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let now = worker.services.clock.now();
        match worker.services.store.backups().take_turn(TURN, due, now).await {
            // Somebody else may have made one, or the process before.
            Ok(false) => look(&worker, &settings).await,
            Ok(true) => {
                let outcome = make(&worker, &settings, now).await;
                let made = outcome.is_ok();
                tell(&worker, outcome, now);
                if made && let Err(error) = worker.services.store.backups().end_turn(TURN).await {
                    tracing::warn!(%error, "the next backup will be made within the hour");
                }
            }
            Err(error) => tracing::warn!(%error, "looking whether a backup is due"),
        }
    }
}

/// Shows how old the newest backup is.
async fn look(worker: &Worker, settings: &Backups) {
    let directory = settings.directory.clone();
    if let Ok(Ok(files)) = tokio::task::spawn_blocking(move || backups_in(&directory)).await
        && let Some((made_at, _)) = files.last()
    {
        worker.metrics.backup_last_success.set(made_at.timestamp());
    }
}

fn tell(worker: &Worker, outcome: anyhow::Result<(PathBuf, u64)>, now: Timestamp) {
    match outcome {
        Ok((path, bytes)) => {
            worker.metrics.backup_last_success.set(now.timestamp());
            tracing::info!(path = %path.display(), bytes, "made a backup");
        }
        Err(error) => {
            worker.metrics.backup_failures.inc();
            tracing::error!("a backup failed, and is tried again after an hour at the latest: {error:#}");
        }
    }
}

/// Makes one, and only then removes those that are too many.
async fn make(worker: &Worker, settings: &Backups, now: Timestamp) -> anyhow::Result<(PathBuf, u64)> {
    let directory = settings.directory.clone();
    let target = directory.join(format!("{BEGIN}{}{END}", now.format(TIME)));
    tokio::task::spawn_blocking(move || prepare(&directory)).await??;
    let order = Order { target: target.clone(), replaces: false, at: now };
    let report = worker.services.store.backups().back_up(&order).await?;
    let (directory, keep) = (settings.directory.clone(), settings.keep);
    tokio::task::spawn_blocking(move || remove_oldest(&directory, keep)).await?.context("removing old backups")?;
    Ok((target, report.bytes))
}

/// There is a directory, and nothing in it of backups that were cut off.
fn prepare(directory: &Path) -> anyhow::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(directory).with_context(|| format!("creating {}", directory.display()))?;
    remove_stale(directory, |name| made_at(name).is_some()).with_context(|| format!("tidying {}", directory.display()))
}

fn remove_oldest(directory: &Path, keep: usize) -> io::Result<()> {
    let files = backups_in(directory)?;
    files.iter().take(files.len().saturating_sub(keep)).try_for_each(|(_, path)| fs::remove_file(path))
}

/// Backups that were made here, the oldest first; other files are none of ours.
fn backups_in(directory: &Path) -> io::Result<Vec<(Timestamp, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if let Some(at) = entry.file_name().to_str().and_then(made_at)
            && entry.file_type()?.is_file()
        {
            files.push((at, entry.path()));
        }
    }
    files.sort();
    Ok(files)
}

/// The time in the name of a backup; nothing in any other name.
fn made_at(name: &str) -> Option<Timestamp> {
    let time = name.strip_prefix(BEGIN)?.strip_suffix(END)?;
    let at: DateTime<Utc> = NaiveDateTime::parse_from_str(time, TIME).ok()?.and_utc();
    (at.format(TIME).to_string() == time).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_the_schedule_are_counted_and_removed() {
        let directory = tempfile::tempdir().expect("a directory");
        let ours = ["engramia-20260101T000000Z.tar", "engramia-20260102T000000Z.tar", "engramia-20260103T000000Z.tar"];
        let others = ["engramia-20260101T000000Z.tar.gz", "engramia-before-upgrade.tar", "engramia-1.tar", "notes"];
        for name in ours.iter().chain(&others) {
            fs::write(directory.path().join(name), "x").expect("written");
        }
        remove_oldest(directory.path(), 2).expect("removed");
        let is_there = |name: &&&str| directory.path().join(name).exists();
        assert_eq!(ours.iter().filter(is_there).collect::<Vec<_>>(), [&ours[1], &ours[2]]);
        assert_eq!(others.iter().filter(is_there).count(), others.len());
        assert_eq!(made_at(ours[0]).expect("a time").timestamp(), 1_767_225_600);
    }
}
