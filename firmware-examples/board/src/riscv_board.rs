//! QEMU's `virt` machine.

use riscv::register::minstret;
// For its reset handler and linker script.
use riscv_rt as _;

/// How many instructions `work` takes, and what it returns.
pub fn instructions<T>(work: impl FnOnce() -> T) -> (u32, T) {
    let before = minstret::read();
    let result = work();
    (minstret::read().wrapping_sub(before) as u32, result)
}
