//! The contract of `Provider` as tests, run unchanged against every implementation.
