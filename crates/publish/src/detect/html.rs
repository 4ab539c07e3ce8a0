//! Pages that need no build.

use super::{Candidate, Listing, Plan, Serve};

pub(super) fn candidates(files: &Listing) -> Vec<Candidate> {
    let folders = [("", 50), ("dist", 46), ("build", 45), ("out", 44), ("public", 43)];
    let mut found = Vec::new();
    for (folder, score) in folders {
        let page =
            if folder.is_empty() { "index.html".into() } else { format!("{folder}/index.html") };
        if files.has(&page) {
            found.push(Candidate {
                score,
                plan: Plan {
                    name: "plain HTML".to_owned(),
                    evidence: vec![format!("`{page}` exists")],
                    install: Vec::new(),
                    build: None,
                    serve: Serve::Files { folders: vec![folder.to_owned()] },
                },
            });
        }
    }
    found
}
