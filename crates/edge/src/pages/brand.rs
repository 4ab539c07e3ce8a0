//! A tenant's brand as HTML and CSS.
//!
//! Promises: nothing that a tenant wrote gets into a page unescaped, and text is readable on
//! whatever colours it chose (WCAG 2.2, 4.5 : 1).

use std::borrow::Cow;

use miosa_types::Branding;

/// A logo that the policy of the page can allow.
pub(super) struct Logo {
    /// Value of `src`, escaped.
    address: String,
    /// What `img-src` needs: `data:` or an origin.
    pub(super) source: String,
}

const LIGHT: &str = "--bg:#fbfbfa;--text:#16181d;--muted:#5b616e;--line:#e4e5e8;";
const DARK: &str = "--bg:#111317;--text:#f2f3f5;--muted:#a2a8b4;--line:#2b2f37;";

/// Declarations of the colours, in front of the style sheet.
pub(super) fn variables(branding: &Branding) -> String {
    let background = branding.background_color.as_deref().and_then(Rgb::parse);
    let primary = branding.primary_color.as_deref().and_then(Rgb::parse);
    // A background that the tenant chose holds in both modes: it is the brand.
    if let Some(background) = background {
        let is_dark = background.luminance() < 0.18;
        let (scheme, text, muted, line) = if is_dark {
            ("dark", "#ffffff", "rgb(255 255 255/.78)", "rgb(255 255 255/.18)")
        } else {
            ("light", "#000000", "rgb(0 0 0/.72)", "rgb(0 0 0/.14)")
        };
        let accent = primary.unwrap_or(if is_dark { Rgb::WHITE } else { Rgb::BLACK });
        let accent = accent.apart_from(background);
        return format!(
            ":root{{--scheme:{scheme};--bg:{};--text:{text};--muted:{muted};--line:{line};{}}}\n",
            background.text(),
            accent.declarations()
        );
    }
    let light = primary.unwrap_or(Rgb(0x16, 0x18, 0x1d)).apart_from(Rgb(0xfb, 0xfb, 0xfa));
    let dark = primary.unwrap_or(Rgb(0xf2, 0xf3, 0xf5)).apart_from(Rgb(0x11, 0x13, 0x17));
    format!(
        ":root{{--scheme:light dark;{LIGHT}{}}}\n\
         @media (prefers-color-scheme:dark){{:root{{{DARK}{}}}}}\n",
        light.declarations(),
        dark.declarations()
    )
}

/// The logo, if there is a usable one.
pub(super) fn logo(branding: &Branding) -> Option<Logo> {
    let address = branding.logo_url.as_deref()?;
    let source = if address.starts_with("data:image/") {
        "data:".to_owned()
    } else {
        let host = address.strip_prefix("https://")?.split(['/', '?', '#']).next()?;
        let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':');
        if host.is_empty() || !host.chars().all(is_host) {
            return None;
        }
        format!("https://{host}")
    };
    Some(Logo { address: escape(address).into_owned(), source })
}

/// Logo or name, above everything. A page without a brand has an empty one, so that the rest
/// stays where it is.
pub(super) fn header(name: Option<&str>, logo: Option<&Logo>) -> String {
    let name = name.map(escape);
    match (logo, name) {
        (Some(logo), name) => {
            let alt = name.as_deref().unwrap_or("");
            let address = &logo.address;
            format!(
                "<header><img src=\"{address}\" alt=\"{alt}\" referrerpolicy=\"no-referrer\"></header>\n"
            )
        }
        (None, Some(name)) => format!("<header>{name}</header>\n"),
        (None, None) => "<header></header>\n".to_owned(),
    }
}

/// Where a visitor finds help.
pub(super) fn footer(branding: &Branding) -> String {
    let address = match (&branding.support_url, &branding.support_email) {
        (Some(url), _) if url.starts_with("https://") => url.clone(),
        (_, Some(mail)) => format!("mailto:{mail}"),
        _ => return String::new(),
    };
    let address = escape(&address);
    format!("<footer>Need help? <a href=\"{address}\">Contact support</a></footer>\n")
}

/// For text and for attributes in double quotes.
pub(super) fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(['&', '<', '>', '"', '\'']) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for char in text.chars() {
        match char {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            char => escaped.push(char),
        }
    }
    Cow::Owned(escaped)
}

/// A colour in sRGB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rgb(u8, u8, u8);

impl Rgb {
    const WHITE: Self = Self(255, 255, 255);
    const BLACK: Self = Self(0, 0, 0);

    fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix('#').filter(|digits| digits.len() == 6)?;
        let value = u32::from_str_radix(digits, 16).ok()?;
        let [_, red, green, blue] = value.to_be_bytes();
        Some(Self(red, green, blue))
    }

    fn text(self) -> String {
        format!("#{:02x}{:02x}{:02x}", self.0, self.1, self.2)
    }

    /// Relative luminance (WCAG 2.2), from 0 to 1.
    fn luminance(self) -> f64 {
        let linear = |part: u8| {
            let part = f64::from(part) / 255.0;
            if part <= 0.040_45 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * linear(self.0) + 0.7152 * linear(self.1) + 0.0722 * linear(self.2)
    }

    fn contrast(self, other: Self) -> f64 {
        let (one, two) = (self.luminance(), other.luminance());
        (one.max(two) + 0.05) / (one.min(two) + 0.05)
    }

    /// This colour, or black or white where it would hardly be seen on `ground` (3 : 1 is what
    /// WCAG asks of graphics).
    fn apart_from(self, ground: Self) -> Self {
        if self.contrast(ground) >= 3.0 { self } else { ground.readable() }
    }

    /// Black or white, whichever is read better on this colour; one of them always has 4.5 : 1.
    fn readable(self) -> Self {
        if self.contrast(Self::WHITE) >= self.contrast(Self::BLACK) {
            Self::WHITE
        } else {
            Self::BLACK
        }
    }

    fn declarations(self) -> String {
        format!("--accent:{};--on-accent:{};", self.text(), self.readable().text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_on_any_accent_is_readable() {
        for red in (0..=255).step_by(17) {
            for green in (0..=255).step_by(17) {
                for blue in (0..=255).step_by(17) {
                    let color = Rgb(red, green, blue);
                    assert!(color.contrast(color.readable()) >= 4.5, "{color:?}");
                }
            }
        }
    }

    #[test]
    fn an_accent_that_is_lost_on_its_ground_is_replaced() {
        let white = Rgb(250, 250, 250);
        assert_eq!(Rgb::parse("#ffff00").unwrap().apart_from(white), Rgb::BLACK);
        let blue = Rgb::parse("#0a5bd3").unwrap();
        assert_eq!(blue.apart_from(white), blue);
        assert_eq!(Rgb::parse("red"), None);
    }
}
