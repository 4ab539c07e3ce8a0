//! An in-memory provider that fails on request.
