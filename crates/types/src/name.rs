//! Names: the parts of host names, checked once so that afterwards the type is the proof, and the
//! display names that people give.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// One DNS label that may stand in front of a tenant's domain (RFC 1035 §2.3.1): 1 to 40
/// characters `[a-z0-9-]`, no dash at an end, no `--` (that separates a version from a slug), not
/// reserved.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Slug(String);

/// Labels that the platform keeps for itself.
pub const RESERVED: [&str; 5] = ["sandbox", "console", "api", "www", "admin"];

/// Text that cannot be a name.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{got}` cannot be used as a name: {why}")]
pub struct NameError {
    /// The text as it came, cut to 60 characters.
    pub got: String,
    /// What is wrong.
    pub why: &'static str,
}

impl Slug {
    /// Checks `text`.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let error = |why| Err(NameError { got: text.chars().take(60).collect(), why });
        if text.is_empty() || text.len() > 40 {
            return error("it must have 1 to 40 characters");
        }
        if !text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
            return error("only lower-case letters, digits and dashes are allowed");
        }
        if text.starts_with('-') || text.ends_with('-') {
            return error("it must not begin or end with a dash");
        }
        if text.contains("--") {
            return error("two dashes in a row are not allowed");
        }
        if RESERVED.contains(&text) {
            return error("it is reserved");
        }
        Ok(Self(text.to_owned()))
    }

    /// Makes a slug out of a display name: `My App!` becomes `my-app`. `None` if nothing usable
    /// remains.
    pub fn from_display(name: &str) -> Option<Self> {
        let mut text = String::new();
        for c in name.chars().flat_map(char::to_lowercase) {
            if c.is_ascii_alphanumeric() {
                text.push(c);
            } else if !text.is_empty() && !text.ends_with('-') {
                text.push('-');
            }
        }
        text.truncate(40);
        Self::parse(text.trim_end_matches('-')).ok()
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Slug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Slug {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Slug {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        Self::parse(&text)
    }
}

impl From<Slug> for String {
    fn from(slug: Slug) -> Self {
        slug.0
    }
}

/// Checks a display name and returns it without the space around it: 1 to `max` characters that
/// can be seen. Letters of every script and emoji are fine; what is invisible or turns the
/// reading direction is not, because two names that look the same must be the same.
pub fn display(text: &str, max: usize) -> Result<&str, NameError> {
    let name = text.trim();
    let error = |why| {
        let got = name.chars().filter(|c| is_visible(*c)).take(60).collect();
        Err(NameError { got, why })
    };
    let length = name.chars().count();
    if length == 0 {
        return error("it must not be empty");
    }
    if length > max {
        return error("it is too long");
    }
    // The picture that a joiner or a selector may follow.
    let mut picture = false;
    let mut chars = name.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{200D}' if picture && chars.peek().is_some_and(|c| is_picture(*c)) => {
                picture = false;
            }
            // How the picture before it is drawn, and its colour.
            '\u{FE0E}' | '\u{FE0F}' | '\u{1F3FB}'..='\u{1F3FF}' if picture => {}
            // A digit in a box.
            '\u{FE0F}' if chars.peek() == Some(&'\u{20E3}') => {}
            c if is_visible(c) => picture = is_picture(c),
            c if c.is_control() => return error("control characters are not allowed"),
            _ => return error("invisible characters and marks of direction are not allowed"),
        }
    }
    Ok(name)
}

/// Whether a character shows as itself (Unicode 16, `Default_Ignorable_Code_Point`, `Cc`, `Cf`,
/// `Co`, `Zl`, `Zp`, and two blanks that count as symbols).
fn is_visible(c: char) -> bool {
    !(c.is_control()
        || matches!(c,
            '\u{AD}' | '\u{34F}' | '\u{600}'..='\u{605}' | '\u{61C}' | '\u{6DD}' | '\u{70F}'
            | '\u{890}' | '\u{891}' | '\u{8E2}' | '\u{115F}' | '\u{1160}' | '\u{17B4}'
            | '\u{17B5}' | '\u{180B}'..='\u{180F}' | '\u{200B}'..='\u{200F}'
            | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{2800}' | '\u{3164}'
            | '\u{E000}'..='\u{F8FF}' | '\u{FE00}'..='\u{FE0F}' | '\u{FEFF}' | '\u{FFA0}'
            | '\u{FFF0}'..='\u{FFFB}' | '\u{FFFE}' | '\u{FFFF}' | '\u{110BD}' | '\u{110CD}'
            | '\u{13430}'..='\u{1343F}' | '\u{1BCA0}'..='\u{1BCA3}' | '\u{1D173}'..='\u{1D17A}'
            | '\u{E0000}'..='\u{10FFFF}'))
}

/// Whether it is drawn as a picture (the blocks that hold `Extended_Pictographic`).
fn is_picture(c: char) -> bool {
    matches!(c, '\u{A9}' | '\u{AE}' | '\u{203C}' | '\u{2049}' | '\u{2122}' | '\u{2139}'
        | '\u{2190}'..='\u{21FF}' | '\u{2300}'..='\u{23FF}' | '\u{24C2}'
        | '\u{25A0}'..='\u{27BF}' | '\u{2900}'..='\u{297F}' | '\u{2B00}'..='\u{2BFF}'
        | '\u{3030}' | '\u{303D}' | '\u{3297}' | '\u{3299}' | '\u{1F000}'..='\u{1F3FA}'
        | '\u{1F400}'..='\u{1FAFF}')
}

/// Checks a domain name that a tenant or the operator sets: 1 to 200 characters, at least two
/// labels of `[a-z0-9-]`, no port, no trailing dot. Returns it in lower case.
pub fn parse_domain(text: &str) -> Result<String, NameError> {
    let error = |why| Err(NameError { got: text.chars().take(60).collect(), why });
    let domain = text.to_ascii_lowercase();
    if domain.is_empty() || domain.len() > 200 {
        return error("a domain has 1 to 200 characters");
    }
    if domain.parse::<std::net::IpAddr>().is_ok() || is_number(last_label(&domain)) {
        return error("an address is not a domain");
    }
    if !domain.contains('.') {
        return error("a domain has at least two labels, like `example.com`");
    }
    for label in domain.split('.') {
        let is_label = (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-');
        if !is_label {
            return error("each label must have 1 to 63 letters, digits or inner dashes");
        }
    }
    Ok(domain)
}

fn last_label(domain: &str) -> &str {
    domain.rsplit('.').next().unwrap_or_default()
}

/// Clients read a name whose last label is one of these as an IPv4 address (URL Standard §3.5).
fn is_number(label: &str) -> bool {
    let is_all = |text: &str, is: fn(&u8) -> bool| text.as_bytes().iter().all(is);
    match label.strip_prefix("0x") {
        Some(hex) => is_all(hex, u8::is_ascii_hexdigit),
        None => !label.is_empty() && is_all(label, u8::is_ascii_digit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_stand_in_a_host_is_a_slug() {
        for good in ["a", "shop-1", "x9"] {
            assert_eq!(Slug::parse(good).unwrap().as_str(), good);
        }
        let long = "a".repeat(41);
        for bad in ["", "A", "-a", "a-", "a--b", "a.b", "ä", "sandbox", "api", "a b", &long] {
            assert!(Slug::parse(bad).is_err(), "`{bad}` passed");
        }
        assert_eq!(Slug::from_display("  My Äpp -- No. 1! ").unwrap().as_str(), "my-pp-no-1");
        assert_eq!(Slug::from_display("???"), None);
        assert_eq!(Slug::from_display("Console"), None);
    }

    #[test]
    fn a_display_name_can_be_seen() {
        for good in [
            "a",
            "Dr. Smith Clinic",
            "Ä-Üñ",
            "診療所",
            "عيادة",
            "क्लिनिक",
            "👍🏽 ok",
            "❤️",
            "👩‍💻",
            "👨‍👩‍👧",
            "🏳️‍🌈",
            "1️⃣",
            "🇩🇪",
            "日本　語",
        ] {
            assert_eq!(display(good, 80), Ok(good));
        }
        assert_eq!(display("  a b\n", 3), Ok("a b"));
        for bad in [
            "",
            "  ",
            "\u{3000}",
            "a\nb",
            "a\0",
            "a\u{7f}",
            "a\u{85}b",
            "pay\u{202E}lap",
            "a\u{200B}b",
            "a\u{200D}b",
            "👩\u{200D}",
            "\u{200D}👩",
            "👩\u{200D}\u{200D}💻",
            "a\u{FE0F}",
            "می\u{200C}خواهم",
            "a\u{2066}b",
            "a\u{FEFF}",
            "a\u{AD}b",
            "\u{3164}",
            "\u{2800}",
            "a\u{E0041}",
            "a\u{2028}b",
            "a\u{E000}",
            "abcd",
        ] {
            let error = display(bad, 3).unwrap_err();
            assert!(error.got.chars().all(is_visible), "{error:?}");
        }
    }

    proptest::proptest! {
        /// What passes stays what it is, and no character that cannot be seen is in it but as
        /// part of a picture.
        #[test]
        fn an_accepted_name_hides_nothing(
            text in "[a-z \u{200B}-\u{200F}\u{202A}-\u{202E}\u{FE0F}\u{1F468}\u{1F3FB}\u{0}-\u{1F}\u{627}]{0,12}",
        ) {
            let accepted = display(&text, 10);
            if let Ok(name) = accepted {
                assert_eq!(display(name, 10), Ok(name));
                assert!((1..=10).contains(&name.chars().count()));
                let chars: Vec<_> = name.chars().collect();
                for (at, c) in chars.iter().enumerate().filter(|(_, c)| !is_visible(**c)) {
                    assert!(matches!(c, '\u{200D}' | '\u{FE0F}'), "{name:?}");
                    assert!(chars[..at].iter().any(|c| is_picture(*c)), "{name:?}");
                }
            }
        }

        #[test]
        fn letters_digits_and_inner_spaces_are_names(text in r"[\p{Lu}\p{Ll}\p{Lo}\p{Nd}&&[^\u{115F}\u{1160}\u{3164}\u{FFA0}]]{1,20}") {
            assert_eq!(display(&text, 20), Ok(text.as_str()));
        }

        #[test]
        fn one_hidden_character_is_enough_to_refuse(
            before in "[a-z]{1,5}", after in "[a-z]{1,5}",
            hidden in "[\u{0}-\u{1F}\u{7F}-\u{9F}\u{AD}\u{61C}\u{200B}-\u{200F}\u{2028}-\u{202E}\u{2060}-\u{206F}\u{FE00}-\u{FE0F}\u{FEFF}\u{E0000}-\u{E01EF}]",
        ) {
            assert!(display(&format!("{before}{hidden}{after}"), 20).is_err());
        }
    }

    #[test]
    fn a_domain_is_checked_and_lowered() {
        assert_eq!(parse_domain("ClinicIQ.localhost").unwrap(), "cliniciq.localhost");
        assert_eq!(parse_domain("1.0x.a1").unwrap(), "1.0x.a1");
        for bad in ["", "localhost", "a..b", "-a.b", "a.b:8080", "*.a.b", "a.b."] {
            assert!(parse_domain(bad).is_err(), "`{bad}` passed");
        }
        for address in ["127.0.0.1", "127.1", "a.b.09", "1.0x7f", "0.0x"] {
            assert_eq!(parse_domain(address).unwrap_err().why, "an address is not a domain");
        }
    }
}
