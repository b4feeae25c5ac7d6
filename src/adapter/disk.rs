//! What the disk under a directory can do, for `engramia doctor`: room, kind, and the time until a write is safe.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Writes that are timed.
const WRITES: usize = 16;
/// Bytes of one: about what a small learn adds to the log.
const BYTES: usize = 4096;

/// What a disk can do.
#[derive(Debug, Clone)]
pub struct Disk {
    /// Where it was tried: the directory, or the nearest one above it that exists.
    pub at: PathBuf,
    /// Bytes that may still be written.
    pub free: u64,
    /// Name of a file system that reaches over a network, where locks and syncs cannot be relied on.
    pub network: Option<&'static str>,
    /// Median time until a small write is on the disk.
    pub sync: Duration,
    /// Longest time.
    pub slowest: Duration,
}

/// Tries the disk under `directory` with a file of its own, which is gone afterwards.
///
/// Waits for the disk: not for a thread of the async runtime.
///
/// # Errors
/// When nothing can be written there.
pub fn examine(directory: &Path) -> io::Result<Disk> {
    let at = nearest(directory);
    let room = rustix::fs::statvfs(&at)?;
    let trial = Trial(at.join(format!(".engramia-doctor-{}", std::process::id())));
    let mut times = trial.write()?;
    times.sort_unstable();
    let slowest = times.last().copied().unwrap_or_default();
    let free = room.f_bavail.saturating_mul(room.f_frsize);
    Ok(Disk { network: network(&at), free, sync: times[times.len() / 2], slowest, at })
}

fn nearest(directory: &Path) -> PathBuf {
    let here = Path::new(".");
    let named = directory.ancestors().map(|path| if path.as_os_str().is_empty() { here } else { path });
    named.into_iter().find(|path| path.is_dir()).unwrap_or(here).to_owned()
}

/// A file that goes with its owner.
struct Trial(PathBuf);

impl Trial {
    fn write(&self) -> io::Result<Vec<Duration>> {
        let mut file = File::options().write(true).create_new(true).open(&self.0)?;
        (0..WRITES)
            .map(|_| {
                let begun = Instant::now();
                file.write_all(&[0; BYTES])?;
                file.sync_data()?;
                Ok(begun.elapsed())
            })
            .collect()
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        // Where it was never made there is nothing to remove.
        drop(std::fs::remove_file(&self.0));
    }
}

/// By the numbers of Linux' `statfs(2)`; other systems do not say.
#[cfg(target_os = "linux")]
fn network(at: &Path) -> Option<&'static str> {
    match u32::try_from(rustix::fs::statfs(at).ok()?.f_type).ok()? {
        0x6969 => Some("NFS"),
        0x517b | 0xff53_4d42 | 0xfe53_4d42 => Some("SMB"),
        0x00c3_6400 => Some("Ceph"),
        0x0102_1997 => Some("9P"),
        _ => None,
    }
}

#[cfg(not(target_os = "linux"))]
fn network(_at: &Path) -> Option<&'static str> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_to_come_is_tried_above_and_nothing_is_left() {
        let root = tempfile::tempdir().expect("a directory");
        let disk = examine(&root.path().join("not/yet/there")).expect("writable");
        assert_eq!(disk.at, root.path());
        assert!(disk.free > 0 && disk.sync <= disk.slowest);
        assert_eq!(root.path().read_dir().expect("listed").count(), 0);
    }

    #[test]
    fn a_file_where_the_directory_should_be_is_not_written_to() {
        let root = tempfile::tempdir().expect("a directory");
        let file = root.path().join("file");
        std::fs::write(&file, "mine").expect("written");
        assert_eq!(examine(&file.join("data")).expect("the folder of the file").at, root.path());
        assert_eq!(std::fs::read_to_string(&file).expect("still there"), "mine");
    }
}
