//! Sizes of workloads.

use serde::{Deserialize, Serialize};

/// The resources one replica may use.
///
/// All are hard limits that the provider must enforce, not hints:
///
/// | field        | unit                    | range          |
/// |--------------|-------------------------|----------------|
/// | `memory_mib` | mebibytes (2^20 bytes)  | 64 ..= 262 144 |
/// | `cpu_millis` | thousandths of one vCPU | 50 ..= 64 000  |
/// | `disk_mib`   | mebibytes               | 64 ..= 1 048 576 |
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Size {
    /// Memory limit in MiB.
    pub memory_mib: u32,
    /// CPU limit in thousandths of one vCPU.
    pub cpu_millis: u32,
    /// Disk limit in MiB: what the workload may write, its template excluded.
    pub disk_mib: u32,
}

/// A published size tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// 1 vCPU, 2048 MiB.
    Xs,
    /// 2 vCPU, 4096 MiB; the default.
    Small,
    /// 4 vCPU, 8192 MiB.
    Medium,
    /// 8 vCPU, 16384 MiB.
    Large,
    /// 16 vCPU, 32768 MiB.
    Xl,
}

/// A size outside the ranges of [`Size`].
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{field} must be between {min} and {max}, got {got}")]
pub struct SizeError {
    /// The field of the API that is wrong.
    pub field: &'static str,
    /// Smallest legal value.
    pub min: u32,
    /// Largest legal value.
    pub max: u32,
    /// The value as it came.
    pub got: u32,
}

#[cfg(feature = "schema")]
impl utoipa::PartialSchema for Tier {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        use utoipa::openapi::{ObjectBuilder, Type};
        let words = Self::ALL.map(Self::as_str);
        ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words)).into()
    }
}

#[cfg(feature = "schema")]
impl utoipa::ToSchema for Tier {}

impl Tier {
    /// All tiers, smallest first.
    pub const ALL: [Self; 5] = [Self::Xs, Self::Small, Self::Medium, Self::Large, Self::Xl];

    /// The word for it in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Xs => "xs",
            Self::Small => "small",
            Self::Medium => "medium",
            Self::Large => "large",
            Self::Xl => "xl",
        }
    }

    /// The tier of that name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tier| tier.as_str() == text)
    }

    /// Its resources (contract: `miosa-api` 4.3).
    pub const fn size(self) -> Size {
        let (cpus, memory_mib) = match self {
            Self::Xs => (1, 2048),
            Self::Small => (2, 4096),
            Self::Medium => (4, 8192),
            Self::Large => (8, 16_384),
            Self::Xl => (16, 32_768),
        };
        Size { memory_mib, cpu_millis: cpus * 1000, disk_mib: 10_240 }
    }
}

impl Size {
    /// Checks the ranges.
    pub fn new(memory_mib: u32, cpu_millis: u32, disk_mib: u32) -> Result<Self, SizeError> {
        let check = |field, got, min, max| {
            if (min..=max).contains(&got) {
                Ok(())
            } else {
                Err(SizeError { field, min, max, got })
            }
        };
        check("memory_mb", memory_mib, 64, 262_144)?;
        check("cpu_millis", cpu_millis, 50, 64_000)?;
        check("disk_size_mb", disk_mib, 64, 1_048_576)?;
        Ok(Self { memory_mib, cpu_millis, disk_mib })
    }

    /// The tier that has exactly this memory and CPU, if any.
    pub fn tier(self) -> Option<Tier> {
        Tier::ALL.into_iter().find(|tier| {
            let size = tier.size();
            (size.memory_mib, size.cpu_millis) == (self.memory_mib, self.cpu_millis)
        })
    }

    /// Whether a slot of this size may be handed to someone who needs `need`.
    ///
    /// The warm pool's only admission rule. A larger slot has its limits set down to `need`
    /// before hand-over.
    pub const fn fits(self, need: Self) -> bool {
        self.memory_mib >= need.memory_mib
            && self.cpu_millis >= need.cpu_millis
            && self.disk_mib >= need.disk_mib
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        fn any_size()(memory_mib in 64..=262_144_u32, cpu_millis in 50..=64_000_u32,
                      disk_mib in 64..=1_048_576_u32) -> Size {
            Size { memory_mib, cpu_millis, disk_mib }
        }
    }

    proptest! {
        /// `fits` is a partial order, and it never lets a larger need into a smaller slot.
        #[test]
        fn fits_is_a_partial_order(a in any_size(), b in any_size(), c in any_size()) {
            prop_assert!(a.fits(a));
            prop_assert!(!(a.fits(b) && b.fits(a)) || a == b);
            prop_assert!(!(a.fits(b) && b.fits(c)) || a.fits(c));
            let is_short = a.memory_mib < b.memory_mib || a.cpu_millis < b.cpu_millis
                || a.disk_mib < b.disk_mib;
            prop_assert_eq!(a.fits(b), !is_short);
        }
    }

    #[test]
    fn tiers_grow_and_know_their_names() {
        for pair in Tier::ALL.windows(2) {
            assert!(pair[1].size().fits(pair[0].size()) && !pair[0].size().fits(pair[1].size()));
        }
        for tier in Tier::ALL {
            assert_eq!(Tier::parse(tier.as_str()), Some(tier));
            assert_eq!(tier.size().tier(), Some(tier));
        }
        assert_eq!(Size::new(1, 1000, 64).unwrap_err().field, "memory_mb");
    }
}
