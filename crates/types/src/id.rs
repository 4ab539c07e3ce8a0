//! Typed identifiers.
//!
//! Every object has its own id type, so a sandbox id can never be passed where an instance id is
//! wanted. The text form is a plain UUID, as the public API has it; it is a UUIDv7, so ids sort
//! by creation time. Never cut a slug from an id: the first digits of a v7 are the clock, so
//! neighbours share them.

use std::{fmt, hash::Hash, marker::PhantomData, str::FromStr};

use uuid::Uuid;

/// Marks one kind of object; implemented only by `id_kinds!`.
pub trait Kind: Copy + Eq + Ord + Hash + fmt::Debug + Send + Sync + 'static {
    /// The word for it in messages.
    const NAME: &'static str;
}

/// The id of an object of kind `K`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id<K: Kind>(Uuid, PhantomData<K>);

/// Text that is no id of the wanted kind.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("a {kind} id is a UUID, got `{got}`")]
pub struct IdError {
    /// The word for the wanted kind.
    pub kind: &'static str,
    /// The text as it came.
    pub got: String,
}

impl<K: Kind> Id<K> {
    /// Wraps a UUID that was made elsewhere: by `Env`, or read from the database.
    pub const fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid, PhantomData)
    }

    /// The UUID inside.
    pub const fn uuid(self) -> Uuid {
        self.0
    }

    /// 32 hexadecimal digits without dashes: names of host objects, E2B sandbox ids.
    pub fn simple(self) -> String {
        self.0.simple().to_string()
    }
}

impl<K: Kind> fmt::Display for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl<K: Kind> fmt::Debug for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", K::NAME, self.0)
    }
}

impl<K: Kind> FromStr for Id<K> {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let uuid =
            Uuid::try_parse(text).map_err(|_| IdError { kind: K::NAME, got: text.to_owned() })?;
        Ok(Self::from_uuid(uuid))
    }
}

impl<K: Kind> serde::Serialize for Id<K> {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de, K: Kind> serde::Deserialize<'de> for Id<K> {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(feature = "schema")]
impl<K: Kind> utoipa::PartialSchema for Id<K> {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        use utoipa::openapi::{ObjectBuilder, SchemaFormat, Type};
        let uuid = SchemaFormat::Custom("uuid".to_owned());
        let object = ObjectBuilder::new().schema_type(Type::String).format(Some(uuid));
        object.description(Some("Names one object.")).into()
    }
}

/// One shape for the ids of all kinds.
#[cfg(feature = "schema")]
impl<K: Kind> utoipa::ToSchema for Id<K> {}

/// Keep this list sorted.
macro_rules! id_kinds {
    ($($alias:ident = $marker:ident($name:literal)),* $(,)?) => { $(
        #[doc = concat!("Marks the kind `", $name, "`.")]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub struct $marker;
        impl Kind for $marker { const NAME: &'static str = $name; }
        #[doc = concat!("Id of one ", $name, ".")]
        pub type $alias = Id<$marker>;
    )* };
}

id_kinds! {
    ApiKeyId = ApiKeyKind("API key"),
    DeploymentId = DeploymentKind("deployment"),
    DomainId = DomainKind("domain"),
    EdgeId = EdgeKind("edge"),
    EventId = EventKind("event"),
    InstallationId = InstallationKind("installation"),
    InstanceId = InstanceKind("runtime instance"),
    PreviewId = PreviewKind("preview"),
    PreviewTokenId = PreviewTokenKind("preview token"),
    ProjectId = ProjectKind("project"),
    SandboxId = SandboxKind("sandbox"),
    TenantId = TenantKind("tenant"),
    VersionId = VersionKind("version"),
    WorkloadId = WorkloadKind("workload"),
    WorkspaceId = WorkspaceKind("workspace"),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_goes_both_ways_and_wrong_text_is_a_clear_error() {
        let id = SandboxId::from_uuid(Uuid::from_u128(7));
        assert_eq!(id.to_string().parse::<SandboxId>(), Ok(id));
        let error = "sbx_1".parse::<SandboxId>().unwrap_err();
        assert_eq!(error.to_string(), "a sandbox id is a UUID, got `sbx_1`");
        assert_eq!(id.simple().len(), 32);
    }
}
