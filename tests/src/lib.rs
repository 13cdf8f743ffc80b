//! What the tests in `tests/` share. The tests themselves are there.

pub mod node;
pub mod python;
pub mod smollm2;
