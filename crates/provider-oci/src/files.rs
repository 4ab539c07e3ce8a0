//! Small files of our own.

use std::{
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use serde::{Serialize, de::DeserializeOwned};

/// Extension of a file that is being written.
const DRAFT: &str = "new";

/// Replaces a file by rename, readable by its owner only. It survives the death of this process;
/// what must survive the machine's is the database's business.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let bytes = serde_json::to_vec(value)?;
    let new = path.with_extension(DRAFT);
    let mut options = fs_err::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    std::os::unix::fs::OpenOptionsExt::mode(options.options_mut(), 0o600);
    io::Write::write_all(&mut options.open(&new)?, &bytes)?;
    fs_err::rename(&new, path)
}

/// Reads it back; `None` if there is none.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs_err::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes what [`write_json`] left in a folder when it was cut short.
pub(crate) fn remove_drafts(folder: &Path) -> io::Result<()> {
    for entry in fs_err::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == DRAFT) {
            remove_file(&path)?;
        }
    }
    Ok(())
}

/// Removes a file; `Ok` if there is none.
pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    absent_is_ok(fs_err::remove_file(path))
}

/// Removes a folder with all it holds; `Ok` if there is none.
pub(crate) fn remove_dir_all(path: &Path) -> io::Result<()> {
    absent_is_ok(fs_err::remove_dir_all(path))
}

/// `Ok` if it failed only because nothing is there.
pub(crate) fn absent_is_ok(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// The last `limit` bytes of a file as text; empty if there is none.
pub(crate) fn tail(path: &Path, limit: u64) -> String {
    let read = || {
        let mut file = fs_err::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(limit)))?;
        let mut bytes = Vec::new();
        file.take(limit).read_to_end(&mut bytes)?;
        Ok::<_, io::Error>(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

/// A new file for a workload's output, open for appending.
pub(crate) fn create_append(path: &Path) -> io::Result<std::fs::File> {
    std::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_comes_back_and_a_tail_is_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        assert_eq!(read_json::<Vec<u8>>(&path).unwrap(), None);
        write_json(&path, &vec![1_u8, 2]).unwrap();
        write_json(&path, &vec![3_u8]).unwrap();
        assert_eq!(read_json(&path).unwrap(), Some(vec![3_u8]));
        let log = folder.path().join("log");
        assert_eq!(tail(&log, 4), "");
        std::fs::write(&log, "abcdefg").unwrap();
        assert_eq!(tail(&log, 4), "defg");
        remove_file(&log).unwrap();
        remove_file(&log).unwrap();
    }
}
