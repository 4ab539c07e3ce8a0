//! What the documents name exists: paths in docs/flows and docs/ARCHITECTURE.md, and functions
//! named as `path.rs: name`.

use std::path::Path;

pub(crate) fn check(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut faults = Vec::new();
    let mut pages = vec![root.join("docs/ARCHITECTURE.md")];
    if root.join("docs/flows").is_dir() {
        for entry in fs_err::read_dir(root.join("docs/flows"))? {
            pages.push(entry?.path());
        }
    }
    for page in pages.iter().filter(|page| page.is_file()) {
        let text = fs_err::read_to_string(page)?;
        let name = page.strip_prefix(root)?.display().to_string();
        for (file, item) in references(&text) {
            let path = root.join(file);
            if !path.exists() {
                faults.push(format!("{name}: `{file}` does not exist"));
            } else if let Some(item) = item
                && !fs_err::read_to_string(&path)?.contains(item)
            {
                faults.push(format!("{name}: `{file}` has no `{item}`"));
            }
        }
    }
    Ok(faults)
}

/// Every `` `crates/…` `` in the text, with what follows `: ` inside the same back-ticks.
fn references(text: &str) -> Vec<(&str, Option<&str>)> {
    let quoted = text.split('`').skip(1).step_by(2);
    let is_ours = |quote: &&str| {
        ["crates/", "script/", "examples/", "templates/", "xtask/"]
            .iter()
            .any(|p| quote.starts_with(p))
    };
    quoted
        .filter(is_ours)
        .map(|quote| match quote.split_once(": ") {
            Some((file, item)) => (file, Some(item)),
            None => (quote, None),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_functions_are_found() {
        let text = "Start at `crates/a/src/b.rs: run`, then `crates/c`; `other` is prose.";
        assert_eq!(references(text), [("crates/a/src/b.rs", Some("run")), ("crates/c", None)]);
    }
}
