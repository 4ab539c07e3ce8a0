//! Every operation of the API, one table for each area.
//!
//! A route without a line here is the operator's alone, and a test fails until it has one.

mod deployments;
mod domains;
mod files;
mod organization;
mod sandboxes;

use super::operation::Operation;

/// All operations.
pub(super) fn all() -> Vec<Operation> {
    let areas = [
        ("Health", organization::health()),
        ("Organization", organization::organization()),
        ("API keys", organization::keys()),
        ("Workspaces and projects", organization::workspaces()),
        ("Sandboxes", sandboxes::sandboxes()),
        ("Commands", sandboxes::commands()),
        ("Files", files::files()),
        ("Previews", sandboxes::previews()),
        ("Templates", sandboxes::templates()),
        ("Deployments", deployments::deployments()),
        ("Events", deployments::happened()),
        ("Domains", domains::domains()),
        ("Operator", organization::operator()),
    ];
    let tagged = |(tag, operations): (_, Vec<Operation>)| {
        operations.into_iter().map(move |one| one.tagged(tag))
    };
    areas.into_iter().flat_map(tagged).collect()
}
