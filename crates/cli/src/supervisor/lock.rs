//! One platform for each data folder: an advisory lock on `DIR/lock`, which holds the process id.

use std::{
    fs::{File, TryLockError},
    io::{Read as _, Seek as _, Write as _},
    path::Path,
};

/// Holds the lock until it is dropped or the process ends.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "its life is the lock")] File);

/// Takes the lock, or says who has it.
pub(super) fn take(data_dir: &Path) -> anyhow::Result<Lock> {
    let mut file = open(data_dir)?;
    match file.try_lock() {
        Ok(()) => {
            file.set_len(0)?;
            file.rewind()?;
            write!(file, "{}", std::process::id())?;
            Ok(Lock(file))
        }
        Err(TryLockError::WouldBlock) => {
            let who = holder(data_dir)?.map_or(String::new(), |pid| format!(" (process {pid})"));
            anyhow::bail!(
                "another `up` already runs on {}{who}; stop it with `miosa down --data-dir {}` or choose another --data-dir",
                data_dir.display(),
                data_dir.display(),
            )
        }
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}

/// Whether a platform runs on the folder.
pub(super) fn is_held(data_dir: &Path) -> anyhow::Result<bool> {
    if !data_dir.join("lock").exists() {
        return Ok(false);
    }
    match open(data_dir)?.try_lock() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}

/// Process id of the last holder.
pub(super) fn holder(data_dir: &Path) -> anyhow::Result<Option<i32>> {
    let mut text = String::new();
    open(data_dir)?.read_to_string(&mut text)?;
    Ok(text.trim().parse().ok())
}

fn open(data_dir: &Path) -> anyhow::Result<File> {
    let file = fs_err::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(data_dir.join("lock"))?;
    Ok(file.into_parts().0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_told_who_has_it() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!is_held(dir.path()).unwrap());
        let lock = take(dir.path()).unwrap();
        assert!(is_held(dir.path()).unwrap());
        let error = take(dir.path()).unwrap_err().to_string();
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        drop(lock);
        assert!(!is_held(dir.path()).unwrap());
    }
}
