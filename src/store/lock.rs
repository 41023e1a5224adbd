//! The store's directory and the lock that makes one process at a time its writer.

use std::fs;
use std::fs::DirBuilder;
use std::fs::File;
use std::fs::OpenOptions;
use std::fs::TryLockError;
use std::io::Read;
use std::io::Seek;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::fs::chown;
use std::path::Path;

use crate::store::error::StoreError;

/// The held lock; the kernel lets go of it when this is dropped or the process ends in any way.
#[derive(Debug)]
pub(super) struct DirectoryLock {
    /// Open for as long as the lock is held.
    _file: File,
}

impl DirectoryLock {
    /// Makes the directory (0700) if it is missing, locks `lock` in it and writes our pid there.
    ///
    /// # Errors
    /// `InUse` when another process holds it; `Denied` or `Io` naming the path.
    pub(super) fn take(directory: &Path) -> Result<DirectoryLock, StoreError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|error| StoreError::from_io(directory, error))?;
        let path = directory.join("lock");
        let failed = |error| StoreError::from_io(&path, error);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::InUse {
                    directory: directory.to_owned(),
                    pid: pid_in(&mut file),
                });
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        own_like_directory(directory, &path).map_err(failed)?;
        file.set_len(0).map_err(failed)?;
        file.rewind().map_err(failed)?;
        writeln!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(DirectoryLock { _file: file })
    }
}

/// Gives a new file to the directory's owner, so that a command run by root does not lock the gateway's own user out.
///
/// # Errors
/// What the system says.
pub(super) fn own_like_directory(directory: &Path, path: &Path) -> std::io::Result<()> {
    let (wanted, is) = (fs::metadata(directory)?, fs::metadata(path)?);
    if is.uid() == 0 && wanted.uid() != 0 {
        chown(path, Some(wanted.uid()), Some(wanted.gid()))?;
    }
    Ok(())
}

fn pid_in(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_directory_is_made_for_its_owner_alone() {
        let base = tempfile::tempdir().unwrap();
        let directory = base.path().join("a/state");
        let _lock = DirectoryLock::take(&directory).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&directory), 0o700);
        assert_eq!(mode(&directory.join("lock")), 0o600);
    }

    #[test]
    fn a_second_lock_is_refused_naming_the_pid() {
        let base = tempfile::tempdir().unwrap();
        let first = DirectoryLock::take(base.path()).unwrap();
        let error = DirectoryLock::take(base.path()).unwrap_err();
        assert_eq!(error.exit_code(), 69);
        let pid = format!("pid {}", std::process::id());
        assert!(error.to_string().contains(&pid), "{error}");
        drop(first);
        DirectoryLock::take(base.path()).unwrap();
    }

    #[test]
    fn a_path_that_cannot_be_a_directory_is_named() {
        let base = tempfile::tempdir().unwrap();
        let file = base.path().join("file");
        fs::write(&file, "x").unwrap();
        let error = DirectoryLock::take(&file.join("state")).unwrap_err();
        assert!(error.to_string().contains("file/state"), "{error}");
    }
}
