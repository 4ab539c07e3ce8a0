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
const LIGHT_GROUND: Rgb = Rgb(0xfb, 0xfb, 0xfa);
const DARK: &str = "--bg:#111317;--text:#f2f3f5;--muted:#a2a8b4;--line:#2b2f37;";
const DARK_GROUND: Rgb = Rgb(0x11, 0x13, 0x17);

/// The least contrast of anything that is read.
const READABLE: f64 = 4.5;

/// Declarations of the colours, in front of the style sheet.
pub(super) fn variables(branding: &Branding) -> String {
    let background = branding.background_color.as_deref().and_then(Rgb::parse);
    let primary = branding.primary_color.as_deref().and_then(Rgb::parse);
    // A background that the tenant chose holds in both modes: it is the brand.
    if let Some(background) = background {
        let text = background.readable();
        let scheme = if text == Rgb::WHITE { "dark" } else { "light" };
        let accent = primary.unwrap_or(text).readable_on(background);
        return format!(
            ":root{{--scheme:{scheme};--bg:{};--text:{};--muted:{};--line:{};{}}}\n",
            background.text(),
            text.text(),
            text.faded_into(background).text(),
            background.mixed(text, 0.16).text(),
            accent.declarations()
        );
    }
    let light = primary.unwrap_or(Rgb(0x16, 0x18, 0x1d)).readable_on(LIGHT_GROUND);
    let dark = primary.unwrap_or(Rgb(0xf2, 0xf3, 0xf5)).readable_on(DARK_GROUND);
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

/// Logo and name, above everything. A page without a brand has an empty one, so that the rest
/// stays where it is.
///
/// The name stands below the logo and the logo has no text of its own: one that cannot be loaded
/// is an empty inline element, which takes no room, and leaves the name without a script.
pub(super) fn header(name: Option<&str>, logo: Option<&Logo>) -> String {
    let image = logo.map_or_else(String::new, |logo| {
        let address = &logo.address;
        format!("<div><img src=\"{address}\" alt=\"\" referrerpolicy=\"no-referrer\"></div>")
    });
    let name = name.map_or_else(String::new, |name| format!("<span>{}</span>", escape(name)));
    format!("<header>{image}{name}</header>\n")
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

    /// This colour, or the nearest of the same hue that can be read on `ground`: darker or lighter
    /// by as little as it takes.
    fn readable_on(self, ground: Self) -> Self {
        if self.contrast(ground) >= READABLE {
            return self;
        }
        let hue = Hue::of(self);
        let end: i16 = if ground.readable() == Self::WHITE { STEPS } else { 0 };
        // On a line of lightness the contrast grows towards `end`, which always suffices.
        let (mut bad, mut good) = (hue.step, end);
        while (good - bad).abs() > 1 {
            let middle = i16::midpoint(bad, good);
            if hue.at(middle).contrast(ground) >= READABLE {
                good = middle;
            } else {
                bad = middle;
            }
        }
        hue.at(good)
    }

    /// This colour of text made quieter on `ground`, but not unreadable.
    fn faded_into(self, ground: Self) -> Self {
        let fades = (0..=6_u8).map(|step| self.mixed(ground, 0.30 - 0.05 * f64::from(step)));
        fades.into_iter().find(|color| color.contrast(ground) >= READABLE).unwrap_or(self)
    }

    /// `part` of `other` in it.
    fn mixed(self, other: Self, part: f64) -> Self {
        let mix = |one: u8, two: u8| byte(f64::from(one) * (1.0 - part) + f64::from(two) * part);
        Self(mix(self.0, other.0), mix(self.1, other.1), mix(self.2, other.2))
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

/// From black to white along one hue.
const STEPS: i16 = 512;

/// A chroma below this (of 255) is more of a grey than a colour: it is not made vivid.
const GREY: f64 = 24.0;

/// A colour's hue and saturation (HSL), and where it is between black and white.
#[derive(Clone, Copy, Debug)]
struct Hue {
    /// Each channel between the least (0) and the largest (1).
    shares: [f64; 3],
    saturation: f64,
    step: i16,
}

impl Hue {
    fn of(color: Rgb) -> Self {
        let channels = [color.0, color.1, color.2].map(f64::from);
        let high = channels.into_iter().fold(0.0, f64::max);
        let low = channels.into_iter().fold(255.0, f64::min);
        let chroma = high - low;
        let shares = channels.map(|one| if chroma > 0.0 { (one - low) / chroma } else { 0.0 });
        let room = 255.0 - (high + low - 255.0).abs();
        let saturation = if room > 0.0 { chroma / room } else { 0.0 };
        let saturation = saturation * (chroma / GREY).min(1.0);
        let step = i16::from(byte(f64::midpoint(high, low))) * 2;
        Self { shares, saturation, step }
    }

    fn at(&self, step: i16) -> Rgb {
        let light = f64::from(step) / f64::from(STEPS);
        let chroma = (1.0 - (2.0 * light - 1.0).abs()) * self.saturation;
        let low = light - chroma / 2.0;
        let [red, green, blue] = self.shares.map(|share| byte(255.0 * (low + share * chroma)));
        Rgb(red, green, blue)
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped before")]
fn byte(value: f64) -> u8 {
    value.round().clamp(0.0, 255.0) as u8
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
    fn an_accent_keeps_its_hue_and_is_kept_where_it_can_be_read() {
        let blue = Rgb::parse("#0a5bd3").unwrap();
        assert_eq!(blue.readable_on(LIGHT_GROUND), blue);
        // A dark brand on a dark page is a lighter blue, not white.
        let navy = Rgb::parse("#0f2a5f").unwrap().readable_on(DARK_GROUND);
        assert!(navy.2 > navy.1 && navy.1 > navy.0 && navy.2 - navy.0 > 60, "{navy:?}");
        // Yellow on a light page is a darker yellow, not black.
        let yellow = Rgb::parse("#ffff00").unwrap().readable_on(LIGHT_GROUND);
        assert!(yellow.0 == yellow.1 && yellow.0 > 90 && yellow.2 == 0, "{yellow:?}");
        // What is hardly a colour does not become one.
        let black = Rgb(0, 0, 1).readable_on(DARK_GROUND);
        assert!(black.2 - black.0 < 16, "{black:?}");
        assert_eq!(Rgb::parse("red"), None);
    }

    fn any_color() -> impl Strategy<Value = Rgb> {
        any::<(u8, u8, u8)>().prop_map(|(red, green, blue)| Rgb(red, green, blue))
    }

    /// In degrees, if it is a colour at all.
    fn hue(color: Rgb) -> Option<f64> {
        let [red, green, blue] = [color.0, color.1, color.2].map(f64::from);
        let (high, low) = (red.max(green).max(blue), red.min(green).min(blue));
        let chroma = high - low;
        if chroma < 40.0 {
            return None;
        }
        let sixth = if red >= green && red >= blue {
            (green - blue) / chroma
        } else if green >= blue {
            (blue - red) / chroma + 2.0
        } else {
            (red - green) / chroma + 4.0
        };
        Some(sixth.rem_euclid(6.0) * 60.0)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn any_brand_is_readable_on_any_page(color in any_color(), chosen in any_color()) {
            for ground in [LIGHT_GROUND, DARK_GROUND, chosen] {
                let accent = color.readable_on(ground);
                prop_assert!(accent.contrast(ground) >= 4.5, "{:?} on {:?}", accent, ground);
                if let (Some(before), Some(after)) = (hue(color), hue(accent)) {
                    let apart = (before - after).abs();
                    prop_assert!(apart.min(360.0 - apart) < 4.0, "{before} became {after}");
                }
            }
            let text = chosen.readable();
            prop_assert!(text.faded_into(chosen).contrast(chosen) >= 4.5);
        }
    }
}
