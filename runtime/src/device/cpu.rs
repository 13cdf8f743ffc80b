//! ONNX Runtime's own kernels. They take whatever no other provider does.

use ort::ep::CPU;

use super::build::Settings;

pub(super) fn provider(_settings: &Settings) -> CPU {
    CPU::default().with_arena_allocator(true)
}
