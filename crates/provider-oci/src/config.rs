//! What the provider is told when it is opened.

use std::{path::PathBuf, sync::Arc};

use miosa_types::{Env, InstallationId};

use crate::{layers::LayerSource, template::Templates};

/// Settings of [`crate::OciProvider`].
#[derive(Clone, Debug)]
pub struct OciConfig {
    /// Carried by every host object, so that several installations run side by side.
    pub installation: InstallationId,
    /// Folder of durable data; the provider keeps to `<data_dir>/oci` and the storage pool's
    /// place. It must not lie on an overlay.
    pub data_dir: PathBuf,
    /// What workloads start from; installations share them.
    pub templates: Templates,
    /// Time, ids, randomness.
    pub env: Env,
    /// Where artifact layers come from.
    pub layers: Arc<dyn LayerSource>,
    /// Mount the host's CA bundle where it differs from the distribution's.
    pub trust_host_ca: bool,
}
