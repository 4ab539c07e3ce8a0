//! What the warm pool does while the host is short of memory: it makes way, before anything that
//! somebody uses has to.

use miosa_provider::Memory;

use super::{Action, Free};

/// How the host stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pressure {
    /// There is memory.
    None,
    /// Less than a tenth is left: no slot is started.
    Tight,
    /// Less than a twentieth is left: slots go.
    Short,
}

/// How a host stands. Unknown memory is no reason to do anything. Between the two bounds slots
/// neither come nor go, so that one that went is not started again at once.
pub fn pressure(memory: Option<Memory>) -> Pressure {
    match memory {
        Some(Memory { total_mib, available_mib }) if available_mib < total_mib / 20 => {
            Pressure::Short
        }
        Some(Memory { total_mib, available_mib }) if available_mib < total_mib / 10 => {
            Pressure::Tight
        }
        _ => Pressure::None,
    }
}

/// What is left of a plan under pressure.
///
/// Invariants (tested): under pressure nothing starts; a slot that was to go goes; a host that is
/// short loses one slot in each step, the largest first.
pub fn under(pressure: Pressure, free: &[Free], mut actions: Vec<Action>) -> Vec<Action> {
    if pressure == Pressure::None {
        return actions;
    }
    actions.retain(|action| matches!(action, Action::Retire(_)));
    if pressure == Pressure::Short && actions.is_empty() {
        let largest = free.iter().max_by_key(|slot| (slot.size.memory_mib, slot.created_at));
        actions.extend(largest.map(|slot| Action::Retire(slot.workload)));
    }
    actions
}
