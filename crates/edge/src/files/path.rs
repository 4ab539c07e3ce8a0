//! From the path of a request to a file of the manifest.
//!
//! Pure. Cloudflare's `auto-trailing-slash`, with its safety rule: a redirect is given only
//! where following it ends at the very file that was meant.

use miosa_types::manifest::{SiteFile, SiteManifest};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

/// What stands at a path.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<'a> {
    /// A file, under its name in the manifest.
    File { path: &'a str, file: &'a SiteFile },
    /// Elsewhere: a decoded path with a leading slash.
    Redirect { to: String },
    /// Nothing; perhaps with the site's own page that says so.
    Nothing { page: Option<&'a SiteFile> },
}

/// What must not stand in the path of a `Location`.
const UNSAFE: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'`')
    .add(b'{')
    .add(b'}')
    .add(b'%')
    .add(b'\\')
    .add(b'^')
    .add(b'|');

pub(super) fn encode(path: &str) -> String {
    utf8_percent_encode(path, UNSAFE).to_string()
}

/// Finds what stands at `raw`, a path as it came.
pub(super) fn find<'a>(manifest: &'a SiteManifest, raw: &str) -> Found<'a> {
    let Ok(decoded) = percent_decode_str(raw).decode_utf8() else {
        return Found::Nothing { page: not_found_page(manifest, "") };
    };
    // Names in a manifest have no leading slash and no empty part, so `//host/` never matches.
    let Some(path) = decoded.strip_prefix('/') else {
        return Found::Nothing { page: not_found_page(manifest, "") };
    };
    if let Some(found) = exact(manifest, path) {
        return found;
    }
    let name = path.rsplit('/').next().unwrap_or(path);
    if manifest.spa
        && !name.contains('.')
        && let Some((path, file)) = manifest.files.get_key_value("index.html")
    {
        return Found::File { path, file };
    }
    Found::Nothing { page: not_found_page(manifest, path) }
}

/// Without any fallback.
fn exact<'a>(manifest: &'a SiteManifest, path: &str) -> Option<Found<'a>> {
    match step(manifest, path)? {
        Step::File(path, file) => Some(Found::File { path, file }),
        Step::Redirect { to, means } => {
            let (name, file) = manifest.files.get_key_value(&means)?;
            if ends_at(manifest, &to, &means) {
                return Some(Found::Redirect { to: format!("/{to}") });
            }
            // The clean address means another file: this one is served where it is.
            Some(Found::File { path: name, file })
        }
    }
}

enum Step<'a> {
    File(&'a str, &'a SiteFile),
    /// To a path (without leading slash) that means the file of this name.
    Redirect {
        to: String,
        means: String,
    },
}

fn step<'a>(manifest: &'a SiteManifest, path: &str) -> Option<Step<'a>> {
    let files = &manifest.files;
    let file = |name: &str| files.get_key_value(name).map(|(path, file)| Step::File(path, file));
    let redirect = |to: &str, means: String| {
        files.contains_key(&means).then(|| Step::Redirect { to: to.to_owned(), means })
    };
    if path.is_empty() {
        return file("index.html");
    }
    if let Some(clean) = path.strip_suffix('/') {
        return file(&format!("{path}index.html"))
            .or_else(|| redirect(clean, format!("{clean}.html")));
    }
    // `/index` and `/index.html` at the top mean `/`.
    if path == "index" || path == "index.html" {
        return redirect("", "index.html".to_owned()).or_else(|| file(path));
    }
    if let Some(clean) = path.strip_suffix("/index.html").or_else(|| path.strip_suffix("/index")) {
        return redirect(clean, format!("{clean}/index.html"))
            .or_else(|| redirect(clean, format!("{clean}.html")))
            .or_else(|| file(path));
    }
    if let Some(clean) = path.strip_suffix(".html") {
        return redirect(clean, path.to_owned())
            .or_else(|| redirect(clean, format!("{clean}/index.html")));
    }
    file(path)
        .or_else(|| file(&format!("{path}.html")))
        .or_else(|| redirect(&format!("{path}/"), format!("{path}/index.html")))
}

/// Whether a visitor who is sent to `path` sees the file `means` in the end.
fn ends_at(manifest: &SiteManifest, path: &str, means: &str) -> bool {
    match step(manifest, path) {
        Some(Step::File(found, _)) => found == means,
        // From `folder.html` over `folder` to `folder/`: one more, no further.
        Some(Step::Redirect { to, means: next }) => {
            next == means
                && matches!(step(manifest, &to), Some(Step::File(found, _)) if found == means)
        }
        None => false,
    }
}

/// The nearest `404.html` at or above the folder of `path`.
fn not_found_page<'a>(manifest: &'a SiteManifest, path: &str) -> Option<&'a SiteFile> {
    let mut folder = path;
    // Bounded: each turn drops a part, and a path has at most a few thousand bytes.
    while let Some((above, _)) = folder.rsplit_once('/') {
        if let Some(file) = manifest.files.get(&format!("{above}/404.html")) {
            return Some(file);
        }
        folder = above;
    }
    manifest.files.get("404.html")
}

/// Folders in which build tools put files whose names carry a hash of their content.
const HASHED_FOLDERS: [&str; 7] =
    ["assets", "_astro", "_next", "_app", "static", "build", "chunks"];

/// Whether the name carries a hash of the content, as `assets/index-B8fk3_Qz.js` or
/// `static/js/main.4f9c2d1a.js` do. In doubt no: a wrong yes keeps an old file alive for a year.
pub(super) fn is_hashed(path: &str) -> bool {
    let Some((folder, _)) = path.split_once('/') else { return false };
    let name = path.rsplit('/').next().unwrap_or(path);
    if !HASHED_FOLDERS.contains(&folder) || matches!(name.rsplit_once('.'), Some((_, "html"))) {
        return false;
    }
    // `main.4f9c2d1a.chunk.js.map`: any part between the separators may be the hash.
    name.split('.').rev().skip(1).any(|part| {
        // A hash in base64 may itself contain `-`: the last eight characters are tried too.
        let tail = part.len().checked_sub(8).and_then(|at| {
            let (before, tail) = part.split_at_checked(at)?;
            before.ends_with('-').then_some(tail)
        });
        part.rsplit('-').next().is_some_and(is_hash) || tail.is_some_and(is_hash)
    })
}

/// Hexadecimal, or letters and digits so mixed that no person writes them.
fn is_hash(text: &str) -> bool {
    if !(8..=64).contains(&text.len()) {
        return false;
    }
    let is = |of: fn(&u8) -> bool| text.bytes().filter(of).count();
    let (digits, upper, lower) =
        (is(u8::is_ascii_digit), is(u8::is_ascii_uppercase), is(u8::is_ascii_lowercase));
    let is_hex = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if is_hex {
        return digits > 0 && lower > 0;
    }
    if !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')) {
        return false;
    }
    let digit_inside = text.trim_end_matches(|c: char| c.is_ascii_digit()).bytes();
    let digit_inside = digit_inside.filter(u8::is_ascii_digit).count() > 0;
    upper > 0 && lower > 0 && (digit_inside || upper >= 3)
}
