//! The warm pool: sandboxes started ahead of need.
//!
//! Promises: an exact size first, a larger slot only when no exact one is left, never a smaller
//! one; a slot is taken once, in the transaction that adds its sandbox; a taken slot never
//! returns, even if the hand-over failed.

mod stats;
mod targets;

use jiff::Timestamp;
use miosa_provider::{Observed, Owner, Phase};
use miosa_store::{
    Store,
    pool_slots::{self, Slot},
};
use miosa_types::{Digest, SandboxId, Size, WorkloadId};
use sqlx::AnyConnection;

pub use miosa_store::sandboxes::BootPath;
pub use stats::{Stats, Waits};
pub use targets::{Targets, TooLarge, check_fits, set_targets, targets};

/// Slots looked at for one sandbox.
const LOOK_AT: u32 = 256;

/// What a sandbox needs of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// Same content.
    pub template: Digest,
    /// At least this size.
    pub size: Size,
}

/// A slot that nobody has and that takes commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Free {
    /// Its workload.
    pub workload: WorkloadId,
    /// What it was started from.
    pub template: Digest,
    /// Its limits.
    pub size: Size,
}

/// The slots to try, best first: those of exactly this size, or, if there is none, the larger
/// ones from the smallest up.
pub fn plan_take(free: &[Free], need: Need) -> Vec<WorkloadId> {
    let mut fitting: Vec<_> =
        free.iter().filter(|f| f.template == need.template && f.size.fits(need.size)).collect();
    if fitting.iter().any(|f| f.size == need.size) {
        fitting.retain(|f| f.size == need.size);
    }
    fitting.sort_by_key(|f| (f.size, f.workload));
    fitting.into_iter().map(|f| f.workload).collect()
}

/// Takes a slot for `sandbox` inside the caller's transaction; `None` if no slot fits.
///
/// # Errors
/// Only the database's.
pub async fn take(
    db: &mut AnyConnection,
    observed: &crate::Observations,
    need: Need,
    (sandbox, now): (SandboxId, Timestamp),
) -> Result<Option<WorkloadId>, miosa_store::Error> {
    let slots = pool_slots::free(db, LOOK_AT).await?;
    if slots.is_empty() {
        return Ok(None);
    }
    let free = ready(&slots, observed);
    for workload in plan_take(&free, need) {
        if pool_slots::take(db, workload, sandbox, now).await? {
            return Ok(Some(workload));
        }
    }
    Ok(None)
}

/// The slots that take commands. Content is the row's, which pinned it; limits are observed.
fn ready(slots: &[Slot], observed: &crate::Observations) -> Vec<Free> {
    let replicas = observed.replicas().unwrap_or_default();
    let free = replicas.iter().filter(|o| is_free(o)).filter_map(|o| {
        let slot = slots.iter().find(|slot| slot.workload == o.key.workload)?;
        Some(Free { workload: slot.workload, template: slot.template_digest, size: o.size })
    });
    free.collect()
}

fn is_free(replica: &Observed) -> bool {
    replica.owner == Owner::Pool
        && replica.guest.is_some()
        && matches!(replica.phase, Phase::Ready { .. })
}

/// Ready slots that nobody has, by template and size: for the catalogue and `miosa status`.
pub async fn fill(
    store: &Store,
    observed: &crate::Observations,
) -> Result<Vec<Free>, miosa_store::Error> {
    let slots = pool_slots::free(&mut *store.conn().await?, LOOK_AT).await?;
    Ok(ready(&slots, observed))
}

#[cfg(test)]
mod tests {
    use miosa_types::size::Tier;
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn free(n: u128, template: u8, size: Size) -> Free {
        let workload = WorkloadId::from_uuid(Uuid::from_u128(n));
        Free { workload, template: Digest::of(&[template]), size }
    }

    #[test]
    fn an_exact_slot_goes_first_and_a_larger_one_only_when_none_is_left() {
        let (xs, small, large) = (Tier::Xs.size(), Tier::Small.size(), Tier::Large.size());
        let need = Need { template: Digest::of(&[0]), size: small };
        let id = |n| WorkloadId::from_uuid(Uuid::from_u128(n));
        let slots = [free(1, 0, large), free(2, 0, small), free(3, 0, xs), free(4, 1, small)];
        assert_eq!(plan_take(&slots, need), [id(2)]);
        assert_eq!(plan_take(&[slots[0], slots[2], slots[3]], need), [id(1)]);
        assert_eq!(plan_take(&slots[2..], need), []);
    }

    prop_compose! {
        fn any_free()(n in 0..64_u128, template in 0..2_u8, memory_mib in 64..68_u32,
                      cpu_millis in 50..54_u32, disk_mib in 64..67_u32) -> Free {
            free(n, template, Size { memory_mib, cpu_millis, disk_mib })
        }
    }

    proptest! {
        #[test]
        fn no_smaller_or_other_slot_is_ever_handed_out(
            slots in proptest::collection::vec(any_free(), 0..12), need in any_free(),
        ) {
            let mut slots = slots;
            slots.sort_by_key(|s| s.workload);
            slots.dedup_by_key(|s| s.workload);
            let need = Need { template: need.template, size: need.size };
            let is_exact = |s: &Free| s.template == need.template && s.size == need.size;
            let taken = plan_take(&slots, need);
            let of = |id| slots.iter().find(|s| s.workload == id).unwrap();
            for id in &taken {
                prop_assert!(of(*id).size.fits(need.size) && of(*id).template == need.template);
                prop_assert_eq!(slots.iter().any(is_exact), is_exact(of(*id)));
            }
            let fits = slots.iter().any(|s| s.template == need.template && s.size.fits(need.size));
            prop_assert_eq!(fits, !taken.is_empty(), "a fitting slot is never left unused");
        }
    }
}
