//! Which templates exist.
//!
//! Control names no provider, so wiring hands it a [`Catalogue`].

use std::fmt;

use miosa_types::Digest;

/// What sandboxes can start from.
pub trait Catalogue: fmt::Debug + Send + Sync {
    /// All templates, the default one first.
    fn list(&self) -> Vec<Template>;

    /// The template of that name, alias or digest.
    fn resolve(&self, name: &str) -> Option<Template> {
        self.list().into_iter().find(|template| template.is_called(name))
    }
}

/// One template, as far as callers of the API see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// Its name.
    pub name: String,
    /// Other names.
    pub aliases: Vec<String>,
    /// Its content: a new one with each change.
    pub digest: Digest,
    /// One sentence.
    pub description: String,
    /// Default working folder.
    pub workdir: String,
    /// Port that its start command listens on.
    pub preview_port: Option<u16>,
    /// Shell line that installs what an app needs.
    pub install_command: Option<String>,
    /// Shell line that starts an app for its live preview.
    pub start_command: Option<String>,
    /// What is installed, as `node-22`.
    pub runtimes: Vec<String>,
}

impl Template {
    /// Whether `name` is its name, an alias or its digest.
    pub fn is_called(&self, name: &str) -> bool {
        self.name == name
            || self.aliases.iter().any(|alias| alias == name)
            || self.digest.to_string() == name
    }
}

/// A catalogue that does not change.
#[derive(Clone, Debug, Default)]
pub struct Fixed(pub Vec<Template>);

impl Catalogue for Fixed {
    fn list(&self) -> Vec<Template> {
        self.0.clone()
    }
}
