//! Which compressed variant of a file a client gets (RFC 9110 §12.5.3).

use http::{HeaderMap, header};
use miosa_types::manifest::{BlobRef, SiteFile};

/// How a file is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Brotli,
    Gzip,
    Identity,
}

impl Encoding {
    /// Value of `Content-Encoding`, if there is one.
    pub(super) const fn name(self) -> Option<&'static str> {
        match self {
            Self::Brotli => Some("br"),
            Self::Gzip => Some("gzip"),
            Self::Identity => None,
        }
    }

    /// The blob that holds it; the plain one where there is no such variant.
    pub(super) fn blob(self, file: &SiteFile) -> BlobRef {
        let variant = match self {
            Self::Brotli => file.brotli,
            Self::Gzip => file.gzip,
            Self::Identity => None,
        };
        variant.unwrap_or(file.blob)
    }
}

/// The variant with the highest weight; among equals brotli before gzip before the plain file.
/// A client that refuses everything gets the plain file all the same, which §12.5.3 allows and
/// which helps it more than 406.
pub(super) fn choose(headers: &HeaderMap, file: &SiteFile) -> Encoding {
    let mut weights = Weights::default();
    for value in headers.get_all(header::ACCEPT_ENCODING) {
        for item in value.to_str().unwrap_or("").split(',') {
            weights.add(item);
        }
    }
    let mut best = (Encoding::Identity, weights.identity());
    for (encoding, exists, named) in [
        (Encoding::Gzip, file.gzip.is_some(), weights.gzip),
        (Encoding::Brotli, file.brotli.is_some(), weights.brotli),
    ] {
        let weight = named.or(weights.any).unwrap_or(0);
        if exists && weight > 0 && weight >= best.1 {
            best = (encoding, weight);
        }
    }
    best.0
}

/// Weights in thousandths.
#[derive(Default)]
struct Weights {
    brotli: Option<u16>,
    gzip: Option<u16>,
    identity: Option<u16>,
    any: Option<u16>,
}

impl Weights {
    fn add(&mut self, item: &str) {
        let mut parts = item.split(';').map(str::trim);
        let name = parts.next().unwrap_or("").to_ascii_lowercase();
        let weight = parts
            .find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")))
            .map_or(Some(1000), weight_of);
        // A weight that cannot be read makes the whole item void.
        let Some(weight) = weight else { return };
        match name.as_str() {
            "br" => self.brotli = Some(weight),
            "gzip" | "x-gzip" => self.gzip = Some(weight),
            "identity" => self.identity = Some(weight),
            "*" => self.any = Some(weight),
            _ => {}
        }
    }

    /// The plain file is acceptable unless it is excluded, but a client that names an encoding
    /// prefers that.
    fn identity(&self) -> u16 {
        self.identity.unwrap_or(1)
    }
}

/// `0`, `1`, `0.5`, `0.123`: at most three digits after the point.
fn weight_of(text: &str) -> Option<u16> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 3 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let fraction: u16 = format!("{fraction:0<3}").parse().ok()?;
    match whole {
        "0" => Some(fraction),
        "1" if fraction == 0 => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use miosa_types::Digest;

    use super::{
        Encoding::{Brotli, Gzip, Identity},
        *,
    };

    #[test]
    fn the_heaviest_variant_that_exists_is_sent() {
        let blob = |text: &str| BlobRef { digest: Digest::of(text.as_bytes()), size: 1 };
        let both = SiteFile {
            blob: blob("plain"),
            content_type: String::new(),
            brotli: Some(blob("br")),
            gzip: Some(blob("gz")),
        };
        let gzip_only = SiteFile { brotli: None, ..both.clone() };
        let plain_only = SiteFile { gzip: None, ..gzip_only.clone() };
        for (accept, with_both, with_gzip) in [
            (None, Identity, Identity),
            (Some(""), Identity, Identity),
            (Some("gzip, deflate, br, zstd"), Brotli, Gzip),
            (Some("gzip"), Gzip, Gzip),
            (Some("BR"), Brotli, Identity),
            (Some("br;q=0.5, gzip;q=0.8"), Gzip, Gzip),
            (Some("br;q=0, gzip;q=0.1"), Gzip, Gzip),
            (Some("*"), Brotli, Gzip),
            (Some("*;q=0.5, br;q=0"), Gzip, Gzip),
            (Some("identity"), Identity, Identity),
            (Some("identity, gzip;q=0.5"), Identity, Identity),
            (Some("identity;q=0.5, gzip;q=0.5"), Gzip, Gzip),
            (Some("gzip;q=abc"), Identity, Identity),
            (Some("gzip;q=2"), Identity, Identity),
            (Some("identity;q=0, *;q=0"), Identity, Identity),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(accept) = accept {
                headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(accept));
            }
            assert_eq!(choose(&headers, &both), with_both, "{accept:?}");
            assert_eq!(choose(&headers, &gzip_only), with_gzip, "{accept:?}");
            assert_eq!(choose(&headers, &plain_only), Identity, "{accept:?}");
        }
    }
}
