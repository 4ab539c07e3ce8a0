//! The last table, on the edge's own disk: what it serves from when control is dead at start.
//!
//! One line per entry, each with its own checksum, so one bad line costs one entry. Written
//! beside and renamed: there is always a whole old or a whole new file.

use std::{io, path::Path};

use miosa_types::{Digest, link::Entry};

const FILE: &str = "table";

/// What was read back.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    pub(crate) entries: Vec<Entry>,
    /// Lines that could not be read.
    pub(crate) bad: usize,
}

/// Writes all entries.
pub(crate) fn save<'a>(dir: &Path, entries: impl Iterator<Item = &'a Entry>) -> io::Result<()> {
    let mut text = String::new();
    for entry in entries {
        let json = serde_json::to_string(entry)?;
        text.push_str(&checksum(&json));
        text.push(' ');
        text.push_str(&json);
        text.push('\n');
    }
    // During an upgrade two generations write.
    let fresh = dir.join(format!("{FILE}.{}", std::process::id()));
    fs_err::write(&fresh, text)?;
    fs_err::rename(fresh, dir.join(FILE))
}

/// Reads them back; no file means no entries.
pub(crate) fn load(dir: &Path) -> io::Result<Kept> {
    let bytes = match fs_err::read(dir.join(FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Kept::default()),
        read => read?,
    };
    let mut kept = Kept::default();
    for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        match entry(line) {
            Some(entry) => kept.entries.push(entry),
            None => kept.bad += 1,
        }
    }
    Ok(kept)
}

fn entry(line: &[u8]) -> Option<Entry> {
    let (sum, json) = std::str::from_utf8(line).ok()?.split_once(' ')?;
    (sum == checksum(json)).then(|| serde_json::from_str(json).ok()).flatten()
}

fn checksum(json: &str) -> String {
    Digest::of(json.as_bytes()).to_string()[..16].to_owned()
}

#[cfg(test)]
mod tests {
    use miosa_types::{
        TenantId,
        link::{Route, Target},
    };
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_damaged_line_costs_one_entry() {
        let dir = tempfile::tempdir().unwrap();
        assert!(load(dir.path()).unwrap().entries.is_empty());
        let route = |host: &str| {
            Entry::Route(Route {
                host: host.into(),
                owner: TenantId::from_uuid(Uuid::nil()).into(),
                target: Target::Redirect { to: "x.y".into() },
            })
        };
        let all = [route("a"), route("b"), route("c")];
        save(dir.path(), all.iter()).unwrap();
        assert_eq!(load(dir.path()).unwrap().entries, all);
        let path = dir.path().join(FILE);
        let text = fs_err::read_to_string(&path).unwrap().replace("\"b\"", "\"B\"");
        fs_err::write(&path, text).unwrap();
        let kept = load(dir.path()).unwrap();
        assert_eq!((kept.entries.len(), kept.bad), (2, 1));
    }
}
