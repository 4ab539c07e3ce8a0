//! The template cache as control's catalogue.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use miosa_control::templates::{Catalogue, Template};
use miosa_provider_oci::template::{self, Templates};
use tokio::time::Instant;

/// How long a listing is trusted. A template that was built meanwhile is seen after that long.
const FRESH: Duration = Duration::from_secs(2);

/// Templates that the cache holds.
pub(crate) struct Installed {
    templates: Templates,
    /// Name of the default template, which is listed first.
    default: String,
    last: Mutex<Option<(Instant, Vec<Template>)>>,
}

impl Installed {
    pub(crate) const fn new(templates: Templates, default: String) -> Self {
        Self { templates, default, last: Mutex::new(None) }
    }

    fn read(&self) -> Vec<Template> {
        let mut all: Vec<Template> = match self.templates.list() {
            Ok(all) => all.into_iter().map(seen).collect(),
            Err(error) => {
                tracing::warn!(%error, "the template cache cannot be read");
                return vec![];
            }
        };
        all.sort_by_key(|template| (!template.is_called(&self.default), template.name.clone()));
        all
    }
}

impl Catalogue for Installed {
    fn list(&self) -> Vec<Template> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((at, all)) if at.elapsed() < FRESH => all.clone(),
            _ => {
                let all = self.read();
                *last = Some((Instant::now(), all.clone()));
                all
            }
        }
    }
}

impl fmt::Debug for Installed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Installed").field("default", &self.default).finish_non_exhaustive()
    }
}

fn seen(template: template::Template) -> Template {
    let spec = template.spec;
    Template {
        name: template.name,
        aliases: spec.aliases,
        digest: template.digest,
        description: spec.description,
        workdir: spec.workdir,
        preview_port: spec.preview_port,
        install_command: spec.install_command,
        start_command: spec.start_command,
        runtimes: spec.tags,
    }
}
