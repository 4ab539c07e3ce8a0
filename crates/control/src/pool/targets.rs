//! What the warm pool shall keep: what the operator set on the running platform, else what the
//! configuration file says.

use miosa_provider::Memory;
use miosa_store::platform_settings;
use miosa_types::{Size, size::Tier};

use crate::{Control, PoolTarget};

/// Name of the setting.
const NAME: &str = "pool_targets";

/// What to keep, and whether the operator set it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Targets {
    /// One for each template and size.
    pub all: Vec<PoolTarget>,
    /// Else the configuration file said so.
    pub is_set: bool,
}

/// What to keep now.
///
/// # Errors
/// Only the database's.
pub async fn targets(control: &Control) -> Result<Targets, miosa_store::Error> {
    let mut db = control.store.conn().await?;
    let set: Option<Vec<PoolTarget>> = platform_settings::find(&mut db, NAME).await?;
    let is_set = set.is_some();
    Ok(Targets { all: set.unwrap_or_else(|| control.config.pool.clone()), is_set })
}

/// Sets what to keep; `None`: what the configuration file says.
///
/// # Errors
/// Only the database's.
pub async fn set_targets(
    control: &Control,
    wanted: Option<&[PoolTarget]>,
) -> Result<(), miosa_store::Error> {
    let mut db = control.store.conn().await?;
    match wanted {
        Some(wanted) => platform_settings::put(&mut db, NAME, &wanted, control.env.now()).await?,
        None => platform_settings::remove(&mut db, NAME).await?,
    }
    control.wakes.pool.notify_one();
    Ok(())
}

/// A size that the host can never give, and the largest tier that it can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this host has {host_mib} MiB of memory, {wanted_mib} MiB do not fit; the largest size that does is {}",
    largest.map_or("none", Tier::as_str)
)]
pub struct TooLarge {
    /// Memory that was asked for.
    pub wanted_mib: u32,
    /// Memory of the host.
    pub host_mib: u64,
    /// The largest tier that fits.
    pub largest: Option<Tier>,
}

/// Whether the host could ever give `size`. Pure; unknown memory fits everything.
pub fn check_fits(size: Size, memory: Option<Memory>) -> Result<(), TooLarge> {
    let Some(Memory { total_mib, .. }) = memory else { return Ok(()) };
    let fits = |mib: u32| u64::from(mib) <= total_mib;
    if fits(size.memory_mib) {
        return Ok(());
    }
    let largest = Tier::ALL.into_iter().rev().find(|tier| fits(tier.size().memory_mib));
    Err(TooLarge { wanted_mib: size.memory_mib, host_mib: total_mib, largest })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_above_the_host_names_the_largest_that_fits() {
        let host = |total_mib| Some(Memory { total_mib, available_mib: 0 });
        assert_eq!(check_fits(Tier::Xl.size(), None), Ok(()));
        assert_eq!(check_fits(Tier::Medium.size(), host(8192)), Ok(()));
        let error = check_fits(Tier::Large.size(), host(9000)).unwrap_err();
        assert_eq!(error.largest, Some(Tier::Medium));
        assert!(error.to_string().ends_with("the largest size that does is medium"), "{error}");
        assert_eq!(check_fits(Tier::Xs.size(), host(1000)).unwrap_err().largest, None);
    }
}
