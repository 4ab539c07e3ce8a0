//! Files are short, say what they are for, and name the product only where they may.

use std::path::{Path, PathBuf};

/// Most lines of code in one file: blank lines, comments and the tests at its end left out.
const MAX_LINES: usize = 500;

/// The only files of the edge and the guest that may hold product words: what a tenant's visitor
/// can see is made by these two crates.
const MAY_NAME_THE_PRODUCT: &[&str] = &["crates/edge/src/product.rs"];

pub(crate) fn check(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut faults = Vec::new();
    for folder in ["crates", "xtask"] {
        for file in rust_files(&root.join(folder))? {
            let text = fs_err::read_to_string(&file)?;
            let path = file.strip_prefix(root)?.display().to_string();
            faults.extend(faults_of(&path, &text));
        }
    }
    Ok(faults)
}

fn rust_files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs_err::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn faults_of(path: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    // A file of tests says what it is for by its neighbour's name.
    let is_tests =
        path.ends_with("tests.rs") || (path.contains("/tests/") && !path.ends_with("main.rs"));
    if !text.starts_with("//!") && !is_tests {
        faults
            .push(format!("{path}:1: open the file with `//!`: what it is for, what it promises"));
    }
    let lines = code_lines(text);
    if lines > MAX_LINES && !is_tests {
        faults.push(format!("{path}: {lines} lines of code, at most {MAX_LINES}"));
    }
    let is_visible = path.starts_with("crates/edge/src") || path.starts_with("crates/guest/src");
    if is_visible && !is_tests && !MAY_NAME_THE_PRODUCT.contains(&path) {
        for (number, line) in text.lines().enumerate() {
            let is_code = !line.trim_start().starts_with("//") && !line.contains("miosa_");
            if is_code && line.to_lowercase().contains("miosa") {
                faults.push(format!("{path}:{}: a visitor may see a product word", number + 1));
            }
        }
    }
    faults
}

fn code_lines(text: &str) -> usize {
    let code = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or(text);
    let is_code = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with("//");
    code.lines().filter(is_code).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_finds_its_fault() {
        assert_eq!(faults_of("crates/x/src/a.rs", "//! For.\nfn a() {}\n"), Vec::<String>::new());
        assert_eq!(faults_of("crates/x/src/a.rs", "fn a() {}\n").len(), 1);
        let long = format!("//! For.\n{}", "fn a() {}\n".repeat(MAX_LINES + 1));
        assert_eq!(faults_of("crates/x/src/a.rs", &long).len(), 1);
        let tested = format!("//! For.\n#[cfg(test)]\nmod tests {{\n{long}}}\n");
        assert_eq!(faults_of("crates/x/src/a.rs", &tested), Vec::<String>::new());
        let named = "//! For.\nconst A: &str = \"Miosa\";\n";
        assert_eq!(faults_of("crates/edge/src/a.rs", named).len(), 1);
        assert_eq!(faults_of("crates/api/src/a.rs", named), Vec::<String>::new());
    }
}
