//! Volumes as plain folders: the last resort, without any limit.

use std::path::PathBuf;

use super::{Driver, Error, Files, Tried as _, Volume, absent_ok, make_parts, volume_in};

/// Prefix of a volume that is being made or removed.
const HALF: &str = ".half-";

#[derive(Debug)]
pub(super) struct Folders {
    pool: PathBuf,
}

impl Folders {
    pub(super) fn open(files: &Files) -> Result<Self, Error> {
        let this = Self { pool: files.pool.clone() };
        for name in this.names()?.iter().filter(|name| name.starts_with(HALF)) {
            fs_err::remove_dir_all(this.pool.join(name)).tried("remove a half-made volume")?;
        }
        Ok(this)
    }

    fn names(&self) -> Result<Vec<String>, Error> {
        fs_err::read_dir(&self.pool)
            .and_then(|entries| {
                entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
            })
            .tried("list volumes")
    }
}

impl Driver for Folders {
    fn create(&self, name: &str, _bytes: u64) -> Result<Volume, Error> {
        let folder = self.pool.join(name);
        if !folder.exists() {
            let draft = self.pool.join(format!("{HALF}{name}"));
            absent_ok(fs_err::remove_dir_all(&draft)).tried("remove a half-made volume")?;
            fs_err::create_dir(&draft).tried("make a volume")?;
            make_parts(&draft).tried("make a volume's folders")?;
            fs_err::rename(&draft, &folder).tried("name a volume")?;
        }
        Ok(volume_in(name, &folder))
    }

    /// Nothing holds the limit; `Storage::is_hard` says so.
    fn set_limit(&self, _name: &str, _bytes: u64) -> Result<(), Error> {
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<(), Error> {
        let draft = self.pool.join(format!("{HALF}{name}"));
        // By rename first, so that a removal that is cut short is never listed.
        absent_ok(fs_err::rename(self.pool.join(name), &draft)).tried("remove a volume")?;
        absent_ok(fs_err::remove_dir_all(&draft)).tried("remove a volume")
    }

    fn list(&self) -> Result<Vec<Volume>, Error> {
        let names = self.names()?;
        let whole = names.iter().filter(|name| super::check_name(name).is_ok());
        Ok(whole.map(|name| volume_in(name, &self.pool.join(name))).collect())
    }

    fn close(&self) -> Result<(), Error> {
        Ok(())
    }
}
