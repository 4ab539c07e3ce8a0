//! The host's apt sources, as far as they carry a release of Debian.
//!
//! Used as they are: a host that reaches its packages through a mirror or a proxy builds through
//! it. Sources of other vendors are left out; their keys are not in a template.

use std::{io, path::Path};

/// The sources for `suite`: text in the style of sources.list(5), one-line entries and deb822
/// stanzas apart, since one file cannot hold both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sources {
    pub(super) lines: String,
    pub(super) stanzas: String,
}

impl Sources {
    /// Reads what apt reads under `etc_apt`, in a stable order.
    pub(super) fn read(etc_apt: &Path, suite: &str) -> io::Result<Self> {
        let mut paths = vec![etc_apt.join("sources.list")];
        if let Ok(entries) = fs_err::read_dir(etc_apt.join("sources.list.d")) {
            let listed = entries.map(|entry| entry.map(|entry| entry.path()));
            let mut listed = listed.collect::<io::Result<Vec<_>>>()?;
            listed.sort();
            paths.extend(listed);
        }
        let mut sources = Self::default();
        for path in paths {
            let Ok(text) = fs_err::read_to_string(&path) else { continue };
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("list") => sources.lines.push_str(&pick_lines(&text, suite)),
                Some("sources") => sources.stanzas.push_str(&pick_stanzas(&text, suite)),
                _ => {}
            }
        }
        Ok(sources)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty() && self.stanzas.is_empty()
    }
}

/// `bookworm`, `bookworm-updates`, `bookworm-security`, but not `cloud-sdk-bookworm`.
fn carries<'a>(suites: impl IntoIterator<Item = &'a str>, suite: &str) -> bool {
    suites.into_iter().any(|found| {
        found
            .strip_prefix(suite)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '/']))
    })
}

fn pick_lines(text: &str, suite: &str) -> String {
    let is_wanted = |line: &&str| {
        let mut words = line.split_whitespace().skip_while(|word| !word.contains(':'));
        let suites = words.by_ref().nth(1);
        line.starts_with("deb ")
            && carries(suites, suite)
            && words.any(|component| component == "main")
    };
    text.lines().filter(is_wanted).fold(String::new(), |text, line| text + line + "\n")
}

fn pick_stanzas(text: &str, suite: &str) -> String {
    let is_wanted = |stanza: &&str| {
        let value = |field: &str| {
            stanza.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case(field).then(|| value.trim().to_owned())
            })
        };
        let has = |field: &str, word: &str| {
            value(field).is_some_and(|value| value.split_whitespace().any(|found| found == word))
        };
        let suites = value("suites").unwrap_or_default();
        has("types", "deb")
            && has("components", "main")
            && carries(suites.split_whitespace(), suite)
            && !has("enabled", "no")
    };
    text.split("\n\n").filter(is_wanted).fold(String::new(), |text, stanza| {
        let kept = stanza.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        kept.fold(text, |text, line| text + line + "\n") + "\n"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_release_itself_is_taken() {
        let lines = "# comment\n\
            deb http://mirror.example/debian bookworm main contrib\n\
            deb [signed-by=/k.gpg] http://mirror.example/debian bookworm-updates main\n\
            deb-src http://mirror.example/debian bookworm main\n\
            deb http://vendor.example/apt bookworm stable\n\
            deb http://vendor.example/apt cloud-bookworm main\n\
            deb http://mirror.example/debian trixie main\n";
        let picked = pick_lines(lines, "bookworm");
        let kept: Vec<&str> = lines.lines().skip(1).take(2).collect();
        assert_eq!(picked.lines().collect::<Vec<_>>(), kept);
    }

    #[test]
    fn stanzas_are_taken_whole_without_comments() {
        let stanza = |suites: &str, components: &str| {
            format!(
                "Types: deb\n# why\nURIs: http://m.example\nSuites: {suites}\nComponents: {components}\n"
            )
        };
        let text = [
            stanza("bookworm bookworm-updates", "main"),
            stanza("bookworm-security", "main"),
            stanza("bookworm", "stable"),
            stanza("trixie", "main"),
            stanza("bookworm", "main") + "Enabled: no\n",
        ]
        .join("\n");
        let picked = pick_stanzas(&text, "bookworm");
        assert_eq!(picked.matches("URIs:").count(), 2, "{picked}");
        assert!(!picked.contains("# why"));
    }
}
