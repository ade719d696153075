//! The state directory: files that are made once, by whoever starts first, and read back by everybody.
//!
//! A file is written whole under another name and then hard-linked to its own, which fails when that exists: so of two
//! starts that race one wins, both read the winner's, and a crash leaves either nothing or the whole file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::Error;

/// More than any file of ours holds; a larger one is not ours.
const MAX_FILE: u64 = 64 << 10;

/// Reads the secret file `name`, making it with `make` first if it is not there.
pub(super) fn secret(dir: &Path, name: &str, make: impl FnOnce() -> Result<Vec<u8>, Error>) -> Result<Vec<u8>, Error> {
    let path = dir.join(name);
    let failed = |source| Error::State { path: path.clone(), source };
    if !path.try_exists().map_err(failed)? {
        fs::create_dir_all(dir).map_err(|source| Error::State { path: dir.to_owned(), source })?;
        write_once(&path, &make()?).map_err(failed)?;
    }
    let file = fs::metadata(&path).map_err(failed)?;
    let mode = file.permissions().mode() & 0o7777;
    if mode & 0o007 != 0 {
        return Err(Error::Exposed { path, mode });
    }
    if file.len() > MAX_FILE {
        return Err(Error::Damaged { path, why: format!("it is larger than {MAX_FILE} bytes") });
    }
    fs::read(&path).map_err(failed)
}

/// Puts the public file `name` there, replacing it in one stroke.
pub(super) fn publish(dir: &Path, name: &str, bytes: &[u8]) -> Result<PathBuf, Error> {
    let path = dir.join(name);
    let write = || {
        let temporary = temporary(&path, bytes, 0o644)?;
        fs::rename(&temporary, &path).inspect_err(|_| drop(fs::remove_file(&temporary)))
    };
    write().map_err(|source| Error::State { path: path.clone(), source })?;
    Ok(path)
}

/// Makes `path` unless it is there already, which is no error: the caller reads it either way.
fn write_once(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = temporary(path, bytes, 0o600)?;
    let linked = match fs::hard_link(&temporary, path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    };
    fs::remove_file(&temporary)?;
    linked?;
    // The link itself must survive a power cut, or the next start would make another root.
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

/// Writes `bytes` beside `path` under a name nobody else uses.
fn temporary(path: &Path, bytes: &[u8], mode: u32) -> io::Result<PathBuf> {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{:016x}", rand::random::<u64>()));
    let temporary = path.with_file_name(name);
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().inspect_err(|_| drop(fs::remove_file(&temporary)))?;
    Ok(temporary)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_that_race_agree_and_leave_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let read: Vec<Vec<u8>> = std::thread::scope(|scope| {
            let starts: Vec<_> = (0..8_u8)
                .map(|n| {
                    let dir = dir.path();
                    scope.spawn(move || secret(dir, "key", || Ok(vec![n; 32])).unwrap())
                })
                .collect();
            starts.into_iter().map(|start| start.join().unwrap()).collect()
        });
        assert!(read.iter().all(|bytes| bytes == &read[0]), "{read:?}");
        let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["key"]);
        assert_eq!(fs::metadata(dir.path().join("key")).unwrap().permissions().mode() & 0o7777, 0o600);
    }

    #[test]
    fn a_key_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        secret(dir.path(), "key", || Ok(vec![1])).unwrap();
        fs::set_permissions(dir.path().join("key"), fs::Permissions::from_mode(0o644)).unwrap();
        let refused = secret(dir.path(), "key", || Ok(vec![2]));
        assert!(matches!(refused, Err(Error::Exposed { mode: 0o644, .. })), "{refused:?}");
    }
}
