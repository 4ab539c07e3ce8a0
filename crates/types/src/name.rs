//! Names that become parts of host names, checked once; afterwards the type is the proof.

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

/// Checks a domain name that a tenant or the operator sets: 1 to 200 characters, at least two
/// labels of `[a-z0-9-]`, no port, no trailing dot. Returns it in lower case.
pub fn parse_domain(text: &str) -> Result<String, NameError> {
    let error = |why| Err(NameError { got: text.chars().take(60).collect(), why });
    let domain = text.to_ascii_lowercase();
    if domain.is_empty() || domain.len() > 200 {
        return error("a domain has 1 to 200 characters");
    }
    if domain.parse::<std::net::IpAddr>().is_ok() {
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
    fn a_domain_is_checked_and_lowered() {
        assert_eq!(parse_domain("ClinicIQ.localhost").unwrap(), "cliniciq.localhost");
        for bad in ["", "localhost", "a..b", "-a.b", "a.b:8080", "127.0.0.1", "*.a.b", "a.b."] {
            assert!(parse_domain(bad).is_err(), "`{bad}` passed");
        }
    }
}
