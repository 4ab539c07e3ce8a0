//! Content types, and the compressed variants of a file.
//!
//! Promises: pure; a variant exists only where it saves at least 5 % and 64 bytes; the time for
//! one file stays in the order of seconds however large it is.

use std::io::{self, Read as _, Write as _};

/// A file's bytes, compressed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Variants {
    pub(crate) brotli: Option<Vec<u8>>,
    pub(crate) gzip: Option<Vec<u8>>,
}

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Value of `Content-Type` for a path; text is always UTF-8. A name without extension is text if
/// its bytes are.
pub(crate) fn content_type(path: &str, bytes: &[u8]) -> String {
    let name = path.rsplit('/').next().unwrap_or(path);
    let extension = name.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase());
    let known = match extension.as_deref() {
        Some("js" | "mjs" | "cjs") => Some("text/javascript"),
        Some("map") => Some("application/json"),
        Some("webmanifest") => Some("application/manifest+json"),
        Some("ico") => Some("image/x-icon"),
        Some("woff") => Some("font/woff"),
        Some("woff2") => Some("font/woff2"),
        Some("ttf") => Some("font/ttf"),
        Some("otf") => Some("font/otf"),
        Some("avif") => Some("image/avif"),
        Some("webp") => Some("image/webp"),
        Some("wasm") => Some("application/wasm"),
        Some("md" | "markdown") => Some("text/markdown"),
        // Files such as `tsx` or `ts` would be guessed to be video.
        Some("ts" | "tsx" | "jsx") => Some("text/plain"),
        None if path == ".well-known/apple-app-site-association" => Some("application/json"),
        _ => None,
    };
    let guessed = known.map(str::to_owned).or_else(|| {
        extension.and_then(|e| mime_guess::from_ext(&e).first()).map(|mime| mime.to_string())
    });
    match guessed {
        Some(kind) if kind.starts_with("text/") => format!("{kind}; charset=utf-8"),
        Some(kind) => kind,
        None if std::str::from_utf8(bytes).is_ok() && !bytes.contains(&0) => {
            "text/plain; charset=utf-8".to_owned()
        }
        None => "application/octet-stream".to_owned(),
    }
}

/// Compresses what is worth it.
pub(crate) fn variants(content_type: &str, bytes: &[u8]) -> Variants {
    if !is_compressible(content_type) {
        return Variants::default();
    }
    let saves = |variant: &Vec<u8>| {
        variant.len() + 64 <= bytes.len() && variant.len() as u64 * 100 <= bytes.len() as u64 * 95
    };
    // Writing to memory does not fail; if it ever did, the plain file is served.
    Variants { brotli: brotli(bytes).ok().filter(saves), gzip: gzip(bytes).ok().filter(saves) }
}

fn is_compressible(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or(content_type).trim();
    kind.starts_with("text/")
        || kind.ends_with("+json")
        || kind.ends_with("+xml")
        || matches!(
            kind,
            "application/json"
                | "application/xml"
                | "application/javascript"
                | "application/wasm"
                | "application/rtf"
                | "application/vnd.ms-fontobject"
                | "font/ttf"
                | "font/otf"
                | "image/bmp"
                | "image/x-icon"
        )
}

/// Quality 11 does about 1 MB/s, 9 about 10, 5 about 50: the largest file allowed (100 MiB)
/// takes seconds.
fn brotli(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let quality = match bytes.len() {
        0..=524_288 => 11,
        len if len <= 8 * MIB => 9,
        _ => 5,
    };
    let mut out = Vec::new();
    brotli::CompressorReader::new(bytes, 64 * KIB, quality, 22).read_to_end(&mut out)?;
    Ok(out)
}

fn gzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let level = if bytes.len() <= 8 * MIB { 9 } else { 6 };
    // No name and no time in the header: the same file has the same variant.
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(level));
    out.write_all(bytes)?;
    out.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types() {
        for (path, bytes, wanted) in [
            ("index.html", "", "text/html; charset=utf-8"),
            ("assets/app.JS", "", "text/javascript; charset=utf-8"),
            ("style.css", "", "text/css; charset=utf-8"),
            ("a.json", "", "application/json"),
            ("logo.svg", "", "image/svg+xml"),
            ("site.webmanifest", "", "application/manifest+json"),
            ("favicon.ico", "", "image/x-icon"),
            ("font.woff2", "", "font/woff2"),
            ("photo.jpg", "", "image/jpeg"),
            ("LICENSE", "Free", "text/plain; charset=utf-8"),
            ("data", "\0\u{1}", "application/octet-stream"),
            ("folder.d/data", "\0", "application/octet-stream"),
            (".well-known/apple-app-site-association", "{}", "application/json"),
        ] {
            assert_eq!(content_type(path, bytes.as_bytes()), wanted, "{path}");
        }
    }

    #[test]
    fn variants_read_back_and_exist_only_where_they_save() {
        let text = "all work and no play ".repeat(200);
        let made = variants("text/html; charset=utf-8", text.as_bytes());
        let (brotli, gzip) = (made.brotli.unwrap(), made.gzip.unwrap());
        let mut plain = String::new();
        brotli::Decompressor::new(&brotli[..], 4096).read_to_string(&mut plain).unwrap();
        assert_eq!(plain, text);
        plain.clear();
        flate2::read::GzDecoder::new(&gzip[..]).read_to_string(&mut plain).unwrap();
        assert_eq!(plain, text);
        assert_eq!(variants("image/png", text.as_bytes()), Variants::default());
        assert_eq!(variants("text/html", b"<p>hi</p>"), Variants::default());
    }
}
