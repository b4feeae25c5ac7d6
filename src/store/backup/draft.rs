//! A backup that is being written: beside its target, under a name that says so, until all of it is on the disk.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, TryLockError};
use std::io::{self, BufWriter, ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::{BUFFER, Digest, Entry, HEADER, Header, MANIFEST, Manifest, Order, Report};

/// End of the name of what is not complete.
const PARTIAL: &str = ".partial";
/// Unit of a tar archive.
const BLOCK: u64 = 512;

/// A file that is removed when it is dropped, whatever became of it.
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes an empty file that nobody else may read; what was there under this name is gone.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn create(path: PathBuf) -> anyhow::Result<(Self, File)> {
        let scratch = Self(path);
        scratch.remove();
        let file = private().create_new(true).open(&scratch.0);
        let file = file.with_context(|| format!("writing {}", scratch.0.display()))?;
        Ok((scratch, file))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Removes it, and what a database leaves beside it.
    fn remove(&self) {
        for end in ["", "-journal", "-wal", "-shm"] {
            drop(fs::remove_file(with_end(&self.0, end)));
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.remove();
    }
}

/// A backup that is being written.
pub struct Draft {
    order: Order,
    partial: Scratch,
    file: BufWriter<File>,
    header: Header,
    entries: Vec<Entry>,
}

/// A place for a backup, before anything is in it; nobody else writes there meanwhile.
pub struct Claim {
    order: Order,
    partial: Scratch,
    file: File,
}

impl Draft {
    /// Takes the place that an order names.
    ///
    /// # Errors
    /// When there is a file that may not be replaced, or the directory cannot be written.
    pub fn claim(order: &Order) -> anyhow::Result<Claim> {
        let target = &order.target;
        let name = target.file_name().with_context(|| format!("{} is not the name of a file", target.display()))?;
        anyhow::ensure!(!target.is_dir(), "{} is a directory: name a file in it", target.display());
        let is_special = target.exists() && !target.is_file();
        anyhow::ensure!(!is_special, "{} is no ordinary file: name another one", target.display());
        refuse_existing(order)?;
        let path = target.with_file_name(hidden(name));
        let mut options = private();
        // Whoever else may write the directory could have put a way to another file there.
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::custom_flags(
            &mut options,
            rustix::fs::OFlags::NOFOLLOW.bits().cast_signed(),
        );
        let file = options.create(true).truncate(false).open(&path);
        let file = file.with_context(|| format!("cannot write {}", target.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => anyhow::bail!("{} is just being written", target.display()),
            Err(TryLockError::Error(error)) => return Err(error).context("locking the file"),
        }
        refuse_foreign(&file).with_context(|| format!("{}", path.display()))?;
        file.set_len(0).with_context(|| format!("cannot write {}", target.display()))?;
        Ok(Claim { order: order.clone(), partial: Scratch(path), file })
    }

    /// Begins an entry; its end is told by [`EntryWriter::finish`].
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn entry(&mut self, name: &str) -> anyhow::Result<EntryWriter<'_>> {
        let starts = self.file.stream_position().with_context(|| self.failed())?;
        self.file.write_all(&[0; BLOCK as usize]).with_context(|| self.failed())?;
        Ok(EntryWriter { name: name.to_owned(), starts, bytes: 0, digest: Digest::new(), draft: self })
    }

    /// Writes an entry that is at hand.
    fn put(&mut self, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let mut entry = self.entry(name)?;
        entry.write(bytes)?;
        entry.finish()?;
        Ok(())
    }

    /// Writes the end, waits for the disk, and gives the file its name.
    ///
    /// # Errors
    /// When any of it fails; then there is no file.
    pub fn publish(mut self, mut manifest: Manifest) -> anyhow::Result<Report> {
        manifest.entries.clone_from(&self.entries);
        self.put(MANIFEST, &serde_json::to_vec_pretty(&manifest)?)?;
        self.file.write_all(&[0; 2 * BLOCK as usize]).with_context(|| self.failed())?;
        self.file.flush().with_context(|| self.failed())?;
        self.file.get_ref().sync_all().with_context(|| self.failed())?;
        let bytes = self.file.stream_position().with_context(|| self.failed())?;
        let target = &self.order.target;
        if self.order.replaces {
            fs::rename(self.partial.path(), target).with_context(|| self.failed())?;
        } else {
            // Unlike a renaming, a second name never takes the place of a file that came meanwhile.
            match fs::hard_link(self.partial.path(), target) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::AlreadyExists => refuse_existing(&self.order)?,
                // Some file systems know no second names.
                Err(_) => fs::rename(self.partial.path(), target).with_context(|| self.failed())?,
            }
        }
        let Self { order, partial, header, .. } = self;
        drop(partial);
        sync_directory(&order.target).with_context(|| format!("writing {}", order.target.display()))?;
        Ok(Report { header, manifest, bytes })
    }

    fn failed(&self) -> String {
        format!("writing {}", self.order.target.display())
    }
}

impl Claim {
    /// A place beside the file for something that is needed meanwhile.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn scratch(&self) -> anyhow::Result<Scratch> {
        Ok(Scratch::create(with_end(self.partial.path(), ".db"))?.0)
    }

    /// Begins to write.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn begin(self, header: Header) -> anyhow::Result<Draft> {
        let Self { order, partial, file } = self;
        let file = BufWriter::with_capacity(BUFFER, file);
        let mut draft = Draft { order, partial, file, header, entries: Vec::new() };
        let text = serde_json::to_vec_pretty(&draft.header)?;
        draft.put(HEADER, &text)?;
        Ok(draft)
    }
}

/// An entry that is being written.
pub struct EntryWriter<'a> {
    name: String,
    starts: u64,
    bytes: u64,
    digest: Digest,
    draft: &'a mut Draft,
}

impl EntryWriter<'_> {
    /// Goes on with these bytes.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.digest.add(bytes);
        self.bytes += bytes.len() as u64;
        self.draft.file.write_all(bytes).with_context(|| self.draft.failed())
    }

    /// Ends it, and writes its size where it begins. Gives its digest.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn finish(self) -> anyhow::Result<String> {
        let Self { name, starts, bytes, digest, draft } = self;
        let mut header = tar::Header::new_ustar();
        header.set_path(&name)?;
        header.set_size(bytes);
        header.set_mode(0o600);
        header.set_mtime(u64::try_from(draft.order.at.timestamp()).unwrap_or(0));
        header.set_cksum();
        let written = |file: &mut BufWriter<File>| -> io::Result<()> {
            let rest = usize::try_from(bytes.next_multiple_of(BLOCK) - bytes).unwrap_or(0);
            file.write_all(&[0; BLOCK as usize][..rest])?;
            let ends = file.stream_position()?;
            file.seek(SeekFrom::Start(starts))?;
            file.write_all(header.as_bytes())?;
            file.seek(SeekFrom::Start(ends))?;
            Ok(())
        };
        written(&mut draft.file).with_context(|| draft.failed())?;
        let sha256 = digest.finish();
        draft.entries.push(Entry { name, bytes, sha256: sha256.clone() });
        Ok(sha256)
    }
}

/// Removes what backups of these names left in a directory when they were killed; those under way are locked.
///
/// # Errors
/// When the directory cannot be listed.
pub fn remove_stale(directory: &Path, is_ours: impl Fn(&str) -> bool) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let target = name.to_str().and_then(|name| name.strip_prefix('.')?.strip_suffix(PARTIAL));
        if !target.is_some_and(&is_ours) {
            continue;
        }
        let partial = entry.path();
        // One that cannot be read, or has just gone, is not ours to remove.
        if File::open(&partial).is_ok_and(|file| file.try_lock().is_ok()) {
            drop((Scratch(with_end(&partial, ".db")), Scratch(partial)));
        }
    }
    Ok(())
}

/// Makes the names in the directory of a file durable.
///
/// # Errors
/// When the directory cannot be opened.
pub fn sync_directory(of: &Path) -> io::Result<()> {
    let parent = of.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

fn refuse_existing(order: &Order) -> anyhow::Result<()> {
    let target = &order.target;
    let is_there = !order.replaces && fs::symlink_metadata(target).is_ok();
    anyhow::ensure!(!is_there, "{} exists already: choose another name, or replace it with --force", target.display());
    Ok(())
}

/// What was left by a backup that was killed is a file of our own, which has one name and is nobody else's to read.
#[cfg(unix)]
fn refuse_foreign(file: &File) -> anyhow::Result<()> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let found = file.metadata()?;
    let is_ours = found.is_file() && found.nlink() == 1 && found.uid() == rustix::process::geteuid().as_raw();
    anyhow::ensure!(is_ours, "this is not a file of ours: remove it");
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    Ok(())
}

#[cfg(not(unix))]
fn refuse_foreign(_file: &File) -> anyhow::Result<()> {
    Ok(())
}

/// The name of what is not complete.
fn hidden(name: &OsStr) -> OsString {
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(PARTIAL);
    hidden
}

fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(end);
    path.into()
}

/// A backup is nobody else's business.
fn private() -> fs::OpenOptions {
    let mut options = File::options();
    options.read(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}
