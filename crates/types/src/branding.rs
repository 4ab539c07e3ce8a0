//! What a tenant shows to its users and their visitors.

use serde::{Deserialize, Serialize};

/// Brand of a tenant, or what a workspace has otherwise than its tenant. Every page that the
/// platform produces on a tenant's host uses it.
///
/// All fields are optional; a page without a brand is neutral and names nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Branding {
    /// Product name, at most 80 characters.
    pub name: Option<String>,
    /// `https://` or `data:image/…` address of the logo.
    pub logo_url: Option<String>,
    /// `#rrggbb`.
    pub primary_color: Option<String>,
    /// `#rrggbb`.
    pub background_color: Option<String>,
    /// Where a visitor finds help: an `https://` address.
    pub support_url: Option<String>,
    /// Mail address of the tenant's support.
    pub support_email: Option<String>,
}

/// A field that cannot be shown safely.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("branding field `{field}` {why}")]
pub struct BrandingError {
    /// Name of the field in the API.
    pub field: &'static str,
    /// What is wrong, as the end of a sentence.
    pub why: &'static str,
}

impl Branding {
    /// Its own fields, and those of `base` where it has none.
    #[must_use]
    pub fn over(self, base: Self) -> Self {
        Self {
            name: self.name.or(base.name),
            logo_url: self.logo_url.or(base.logo_url),
            primary_color: self.primary_color.or(base.primary_color),
            background_color: self.background_color.or(base.background_color),
            support_url: self.support_url.or(base.support_url),
            support_email: self.support_email.or(base.support_email),
        }
    }

    /// Checks every field.
    pub fn check(&self) -> Result<(), BrandingError> {
        let error = |field, why| Err(BrandingError { field, why });
        if self.name.as_deref().is_some_and(|name| crate::name::display(name, 80).is_err()) {
            return error("name", "must have 1 to 80 visible characters");
        }
        for (field, value) in
            [("primary_color", &self.primary_color), ("background_color", &self.background_color)]
        {
            if value.as_deref().is_some_and(|v| !is_hex_color(v)) {
                return error(field, "must be a colour like `#1a2b3c`");
            }
        }
        if self.logo_url.as_deref().is_some_and(|v| !is_https(v) && !v.starts_with("data:image/")) {
            return error("logo_url", "must be an https or data:image address");
        }
        if self.support_url.as_deref().is_some_and(|v| !is_https(v)) {
            return error("support_url", "must be an https address");
        }
        if self.support_email.as_deref().is_some_and(|v| !v.contains('@') || v.contains(' ')) {
            return error("support_email", "must be a mail address");
        }
        Ok(())
    }
}

fn is_hex_color(text: &str) -> bool {
    text.len() == 7
        && text.starts_with('#')
        && text.bytes().skip(1).all(|byte| byte.is_ascii_hexdigit())
}

fn is_https(text: &str) -> bool {
    text.starts_with("https://")
        && text.len() > 8
        && !text.chars().any(|c| c.is_control() || c.is_whitespace() || "\"'<>".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_break_a_page_is_refused() {
        let with = |change: fn(&mut Branding)| {
            let mut branding = Branding::default();
            change(&mut branding);
            branding.check().map_err(|error| error.field)
        };
        assert_eq!(with(|b| b.name = Some("ClinicIQ".into())), Ok(()));
        assert_eq!(with(|b| b.name = Some(" ".into())), Err("name"));
        assert_eq!(with(|b| b.name = Some("a\u{202E}b".into())), Err("name"));
        assert_eq!(with(|b| b.primary_color = Some("red;}".into())), Err("primary_color"));
        assert_eq!(with(|b| b.logo_url = Some("javascript:alert(1)".into())), Err("logo_url"));
        assert_eq!(with(|b| b.support_url = Some("https://a\"onload".into())), Err("support_url"));
    }
}
