//! Prints the API's description; `cargo xtask generate` writes it to `docs/openapi.json`.

use std::io::Write as _;

fn main() -> std::io::Result<()> {
    std::io::stdout().write_all(miosa_api::openapi::text().as_bytes())
}
