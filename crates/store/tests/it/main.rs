//! The same suite for every kind of database: one file for each table.

#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![expect(clippy::print_stderr, reason = "what is skipped is said aloud")]

mod api_keys;
mod certificates;
mod deployments;
mod domains;
mod events;
mod full;
mod idempotency;
mod installations;
mod instances;
mod platform_settings;
mod pool_slots;
mod preview_tokens;
mod previews;
mod projects;
mod sandboxes;
mod store;
mod support;
mod tenants;
mod upgrade;
mod versions;
mod workspaces;
