//! What the tests in `tests/` share. The tests themselves are there.

pub mod python;
pub mod smollm2;
