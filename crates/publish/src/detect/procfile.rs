//! Apps that say in a `Procfile` how they are run (the format of Heroku: `NAME: COMMAND` lines).

use super::{Candidate, Listing, explicit_process};

/// The line of the process that answers visitors: `web`, as everybody who reads the file has it.
fn web(text: &str) -> Option<&str> {
    text.lines().find_map(|line| {
        let (name, command) = line.split_once(':')?;
        let command = command.trim();
        (name.trim() == "web" && !command.is_empty()).then_some(command)
    })
}

pub(super) fn candidates(files: &Listing) -> Option<Candidate> {
    let line = web(files.text("Procfile")?)?;
    let mut plan = explicit_process(files, line);
    "app with a Procfile".clone_into(&mut plan.name);
    plan.evidence = vec![format!("Procfile: `web: {line}`")];
    Some(Candidate { score: 90, plan })
}

#[cfg(test)]
#[test]
fn only_the_web_process_counts() {
    for (text, expected) in [
        ("web: node server.js", Some("node server.js")),
        (
            "# words\nworker: x\nweb:  gunicorn app:app --bind :$PORT \n",
            Some("gunicorn app:app --bind :$PORT"),
        ),
        ("web:\n", None),
        ("worker: x", None),
        ("webhook: x", None),
        ("", None),
    ] {
        assert_eq!(web(text), expected, "{text:?}");
    }
}
