//! Why an attempt at a build was interrupted, in words for the owner of the app.

use miosa_provider::{Observed, Phase};

/// How a build sandbox ended, if it did.
pub(super) fn ended(replica: &Observed) -> Option<String> {
    let exit = replica.last_exit.as_ref();
    let code = match replica.phase {
        Phase::Exited { code } => Some(code).filter(|code| *code >= 0),
        Phase::Lost => return Some("The build sandbox cannot be seen any more.".to_owned()),
        _ => return None,
    };
    let code = exit.and_then(|exit| exit.code).or(code);
    let output = exit.map_or("", |exit| exit.log_tail.trim());
    Some(match code {
        None if replica.ready_at.is_none() && !output.is_empty() => {
            format!("The build sandbox could not be started: {output}.")
        }
        None if replica.ready_at.is_none() => {
            "The build sandbox could not be started: it ended at once.".to_owned()
        }
        // What kills the first process of a sandbox is nearly always the limit of its memory.
        None | Some(137) => {
            "The build sandbox was killed; it probably ran out of memory.".to_owned()
        }
        Some(code @ 129..=192) => format!("The build sandbox was ended by signal {}.", code - 128),
        Some(code) => format!("The build sandbox ended with exit code {code}."),
    })
}

/// An error with what caused it.
pub(super) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = cause.source();
    }
    text
}

/// `text` as a sentence.
pub(super) fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|first| first.to_ascii_uppercase());
    format!("{}{}.", first.unwrap_or_default(), chars.as_str().trim_end_matches('.'))
}
