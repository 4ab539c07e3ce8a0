//! Reads a configuration file and says all that is wrong with it. Pure.
//!
//! Promises: each problem names its key and its line where there is one; a key that nobody knows
//! is a problem and comes with the nearest that is known; no value is repeated in a problem that
//! may hold a password.

use std::{collections::BTreeMap, fmt, ops::Range};

use serde::{Deserialize as _, Serialize};
use serde_json::Value;
use toml::de::{DeTable, DeValue, Deserializer};

use super::file::{File, schema};

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Problem {
    /// Line in the file, from 1.
    pub(crate) line: Option<usize>,
    /// Full name of the key.
    pub(crate) key: Option<String>,
    /// What is wrong and what would be right.
    pub(crate) message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        f.write_str(&self.message)
    }
}

/// What a file says.
#[derive(Clone, Debug, Default)]
pub(super) struct Read {
    /// Its values, defaults for the rest.
    pub(super) file: File,
    /// The keys that it sets, with their lines.
    pub(super) given: BTreeMap<String, usize>,
    /// What is wrong with it.
    pub(super) problems: Vec<Problem>,
}

/// Reads the text of a file.
pub(super) fn read(text: &str) -> Read {
    let mut read = Read::default();
    let (mut table, faults) = DeTable::parse_recoverable(text);
    if !faults.is_empty() {
        let problem = |fault: &toml::de::Error| Problem {
            line: fault.span().map(|span| line(text, &span)),
            key: None,
            message: one_line(fault.message()),
        };
        read.problems.extend(faults.iter().map(problem));
        return read;
    }
    let schema = schema();
    let mut known = Vec::new();
    names(&schema, "", &mut known);
    let mut walk = Walk { text, known: &known, read: &mut read, spans: Vec::new() };
    walk.table(table.get_mut(), &schema, "");
    let spans = walk.spans;
    match File::deserialize(Deserializer::from(table)) {
        Ok(file) => read.file = file,
        Err(error) => {
            let span = error.span();
            let key = span.as_ref().and_then(|span| innermost(&spans, span));
            let message = one_line(error.message());
            read.problems.push(Problem {
                line: span.map(|span| line(text, &span)),
                message: match &key {
                    Some(key) => format!("`{key}`: {message}"),
                    None => message,
                },
                key,
            });
        }
    }
    read.problems.sort_by_key(|problem| problem.line);
    read
}

/// Takes what nobody knows out of a table and notes the rest.
struct Walk<'a> {
    text: &'a str,
    known: &'a [String],
    read: &'a mut Read,
    /// Where the values of known keys are.
    spans: Vec<(String, Range<usize>)>,
}

impl Walk<'_> {
    fn table(&mut self, table: &mut DeTable<'_>, schema: &Value, prefix: &str) {
        let mut unknown = Vec::new();
        for (key, value) in table.iter_mut() {
            let line = line(self.text, &key.span());
            let name = join(prefix, key.get_ref());
            let Some(below) = schema["properties"].get(key.get_ref().as_ref()) else {
                self.read.problems.push(Problem {
                    line: Some(line),
                    message: format!(
                        "there is no key `{name}`; did you mean `{}`?",
                        nearest(&name, self.known)
                    ),
                    key: Some(name),
                });
                unknown.push(key.get_ref().clone().into_owned());
                continue;
            };
            self.spans.push((name.clone(), value.span()));
            match value.get_mut() {
                DeValue::Table(inner) if below["properties"].is_object() => {
                    self.table(inner, below, &name);
                    continue;
                }
                DeValue::Array(rows) if below["items"]["properties"].is_object() => {
                    for row in rows.iter_mut() {
                        if let DeValue::Table(inner) = row.get_mut() {
                            self.table(inner, &below["items"], &name);
                        }
                    }
                }
                _ => {}
            }
            self.read.given.entry(name).or_insert(line);
        }
        for key in unknown {
            table.remove(key.as_str());
        }
    }
}

/// Every key that may be set, by its full name.
fn names(schema: &Value, prefix: &str, known: &mut Vec<String>) {
    for (key, below) in schema["properties"].as_object().into_iter().flatten() {
        let name = join(prefix, key);
        names(below, &name, known);
        names(&below["items"], &name, known);
        known.push(name);
    }
}

/// The known key that is most like `name`: by its last part first, so that one in the wrong table
/// is found too.
fn nearest<'a>(name: &str, known: &'a [String]) -> &'a str {
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_lowercase();
    let apart = |one: &&String| {
        let by_last = strsim::damerau_levenshtein(&last(one), &last(name));
        (by_last, strsim::damerau_levenshtein(one, name))
    };
    known.iter().min_by_key(apart).map_or("", String::as_str)
}

/// The key whose value holds `at` and no other known one does within.
fn innermost(spans: &[(String, Range<usize>)], at: &Range<usize>) -> Option<String> {
    let holds = |(_, span): &&(String, Range<usize>)| span.start <= at.start && at.end <= span.end;
    spans.iter().filter(holds).min_by_key(|(_, span)| span.len()).map(|(name, _)| name.clone())
}

fn join(prefix: &str, key: &str) -> String {
    if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") }
}

fn line(text: &str, span: &Range<usize>) -> usize {
    text.get(..span.start).map_or(1, |before| before.matches('\n').count() + 1)
}

fn one_line(message: &str) -> String {
    message.lines().map(str::trim).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        read(text).problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_the_nearest_known_one() {
        for (text, line, key, near) in [
            ("[pol]\ntargets = []", 1, "pol", "pool"),
            ("\n[pool]\ntarget = []", 3, "pool.target", "pool.targets"),
            ("data-dir = '/d'", 1, "data-dir", "data_dir"),
            ("base_domian = 'a.b'", 1, "base_domian", "base_domain"),
            ("plain_http = true", 1, "plain_http", "edge.plain_http"),
            ("[edge]\nPlain_Http = true", 2, "edge.Plain_Http", "edge.plain_http"),
            (
                "[[pool.targets]]\ntemplate = 't'\nsize = 'xs'\ncounts = 1\ncount = 1",
                4,
                "pool.targets.counts",
                "pool.targets.count",
            ),
            (
                "sandbox.default_templates = 't'",
                1,
                "sandbox.default_templates",
                "sandbox.default_template",
            ),
        ] {
            let expected = format!("line {line}: there is no key `{key}`; did you mean `{near}`?");
            assert_eq!(problems(text), [expected], "{text}");
        }
    }

    #[test]
    fn everything_that_is_wrong_is_told_at_once() {
        let text = "a = 1\nhttp = 'nonsense'\n[edge]\nb = 2";
        let told = problems(text);
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(told[1].starts_with("line 2: `http`: "), "{told:?}");
        assert!(told[2].contains("`edge.b`"), "{told:?}");
        for (text, word) in [
            (
                "[[pool.targets]]\ntemplate = 't'\nsize = 'huge'\ncount = 1",
                "line 3: `pool.targets.size`",
            ),
            ("[[pool.targets]]\ntemplate = 't'\nsize = 'xs'", "count"),
            ("ephemeral = 1", "line 1: `ephemeral`: "),
            ("edge = 1", "`edge`"),
            ("http = ", "line 1: "),
            ("[edge]\n[edge]", "line 2: "),
        ] {
            let told = problems(text);
            assert!(!told.is_empty() && told[0].contains(word), "{text}: {told:?}");
        }
        let told = format!("{:?}", problems("database = 5\nx = 'postgres://u:hidden@h/d'"));
        assert!(told.contains("`database`") && !told.contains("hidden"), "{told}");
    }

    #[test]
    fn what_is_given_is_known_with_its_line() {
        let read = read("http = '127.0.0.1:1'\n[edge]\nplain_http = true\n[pool]\ntargets = []\n");
        assert_eq!(read.problems, []);
        let given: Vec<_> = read.given.iter().map(|(key, line)| (key.as_str(), *line)).collect();
        assert_eq!(given, [("edge.plain_http", 3), ("http", 1), ("pool.targets", 5)]);
        assert!(read.file.edge.plain_http && read.file.pool.targets.is_empty());
        assert_eq!(read.file.https, File::default().https);
    }
}
