//! Output that appears under its name only when it is whole.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;

/// A file that is written beside its final place.
pub struct PartialFile {
    out: BufWriter<File>,
    unfinished: Option<Unfinished>,
}

/// A directory that is filled beside its final place.
pub struct PartialDirectory(Unfinished);

/// Something under a temporary name; removed when dropped.
struct Unfinished {
    temporary: PathBuf,
    place: PathBuf,
    finished: bool,
}

impl PartialFile {
    /// A file that will replace `path`. A device or pipe is written directly.
    ///
    /// # Errors
    /// When `path` is a directory, or nothing can be written there.
    pub fn create(path: &Path) -> anyhow::Result<Self> {
        // Through symbolic links: the file they point to is replaced, not the link.
        let place = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let unfinished = match fs::metadata(&place) {
            Ok(found) if found.is_dir() => anyhow::bail!("{} is a directory", path.display()),
            Ok(found) if !found.is_file() => None,
            _ => Some(Unfinished::beside(place.clone())),
        };
        let written = unfinished.as_ref().map_or(&place, |unfinished| &unfinished.temporary);
        let file = File::create(written).with_context(|| format!("writing {}", written.display()))?;
        Ok(Self { out: BufWriter::new(file), unfinished })
    }

    /// Puts the file in its place, once it is safely on the disk.
    ///
    /// # Errors
    /// When something cannot be written.
    pub fn finish(mut self) -> anyhow::Result<()> {
        self.out.flush()?;
        let Some(unfinished) = self.unfinished else { return Ok(()) };
        self.out.get_ref().sync_all()?;
        unfinished.finish()
    }
}

impl Write for PartialFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl PartialDirectory {
    /// A directory that will be `path`, which must not exist or be empty.
    ///
    /// # Errors
    /// When it holds something, or nothing can be written there.
    pub fn create(path: &Path) -> anyhow::Result<Self> {
        if let Ok(mut entries) = fs::read_dir(path) {
            anyhow::ensure!(entries.next().is_none(), "{} is not empty", path.display());
        }
        let unfinished = Unfinished::beside(path.components().collect());
        let created = fs::create_dir(&unfinished.temporary);
        created.with_context(|| format!("creating {}", unfinished.temporary.display()))?;
        Ok(Self(unfinished))
    }

    /// Writes a new file below the directory.
    ///
    /// # Errors
    /// When there is such a file, or it cannot be written.
    pub fn write(&self, path: &Path, contents: &str) -> anyhow::Result<()> {
        let file = self.0.temporary.join(path);
        if let Some(parent) = file.parent() {
            fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
        }
        let written = File::create_new(&file).and_then(|mut file| file.write_all(contents.as_bytes()));
        written.with_context(|| format!("writing {}", file.display()))
    }

    /// Puts the directory in its place.
    ///
    /// # Errors
    /// When it cannot be renamed.
    pub fn finish(self) -> anyhow::Result<()> {
        self.0.finish()
    }
}

impl Unfinished {
    fn beside(place: PathBuf) -> Self {
        let mut temporary = OsString::from(&place);
        temporary.push(".partial");
        Self { temporary: temporary.into(), place, finished: false }
    }

    fn finish(mut self) -> anyhow::Result<()> {
        fs::rename(&self.temporary, &self.place).with_context(|| format!("writing {}", self.place.display()))?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.finished {
            // Whatever cannot be removed stays: its name says what it is.
            let removed = fs::remove_file(&self.temporary);
            drop(removed.or_else(|_| fs::remove_dir_all(&self.temporary)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).expect("a directory").flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_appears_when_it_is_whole() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("out.json");
        fs::write(&path, "old").expect("written");
        let mut file = PartialFile::create(&path).expect("created");
        file.write_all(b"new").expect("written");
        assert_eq!(names(directory.path()), ["out.json", "out.json.partial"]);
        drop(file);
        assert_eq!(fs::read_to_string(&path).expect("a file"), "old");
        assert_eq!(names(directory.path()), ["out.json"]);

        let mut file = PartialFile::create(&path).expect("created");
        file.write_all(b"new").expect("written");
        file.finish().expect("finished");
        assert_eq!(fs::read_to_string(&path).expect("a file"), "new");
        assert_eq!(names(directory.path()), ["out.json"]);
        assert!(PartialFile::create(directory.path()).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn links_and_devices_stay_what_they_are() {
        let directory = tempfile::tempdir().expect("a directory");
        let (target, link) = (directory.path().join("target"), directory.path().join("link"));
        fs::write(&target, "old").expect("written");
        std::os::unix::fs::symlink(&target, &link).expect("a link");
        PartialFile::create(&link).and_then(PartialFile::finish).expect("finished");
        assert!(fs::symlink_metadata(&link).expect("a link").is_symlink());
        assert_eq!(fs::read_to_string(&target).expect("a file"), "");
        PartialFile::create(Path::new("/dev/null")).and_then(PartialFile::finish).expect("finished");
        assert!(!fs::metadata("/dev/null").expect("a device").is_file());
    }

    #[test]
    fn a_directory_appears_when_it_is_whole() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("out");
        let partial = PartialDirectory::create(&path).expect("created");
        partial.write(Path::new("a/b.json"), "{}").expect("written");
        assert!(partial.write(Path::new("a/b.json"), "{}").is_err(), "twice");
        assert_eq!(names(directory.path()), ["out.partial"]);
        drop(partial);
        assert_eq!(names(directory.path()), [""; 0]);

        let partial = PartialDirectory::create(&path).expect("created");
        partial.write(Path::new("a/b.json"), "{}").expect("written");
        partial.finish().expect("finished");
        assert_eq!(fs::read_to_string(path.join("a/b.json")).expect("a file"), "{}");
        assert!(PartialDirectory::create(&path).is_err(), "not empty");
    }
}
