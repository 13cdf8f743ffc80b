//! What the example programs need of a board. On hardware all of this is the board support crate of your chip.
//!
//! A program is a function that says whether it succeeded: `board::main!(run)`. A panic or fault prints itself and ends the
//! emulation with an exit code that is not 0.
#![no_std]

#[cfg(target_arch = "arm")]
mod cortex_m_board;
#[cfg(target_arch = "riscv32")]
mod riscv_board;

#[cfg(target_arch = "arm")]
pub use cortex_m_board::{Clock, Uart, instructions};
#[cfg(target_arch = "riscv32")]
pub use riscv_board::instructions;
pub use semihosting::println;

/// Makes `fn() -> bool` the program; the exit code of the emulator is 0 for `true` and 1 for `false`.
#[macro_export]
macro_rules! main {
    ($run:path) => {
        /// What the reset handler calls once memory and processor are ready.
        #[unsafe(no_mangle)]
        extern "C" fn main() -> ! {
            let success: bool = $run();
            $crate::leave(success)
        }
    };
}

/// Ends the emulation.
pub fn leave(success: bool) -> ! {
    semihosting::process::exit(i32::from(!success))
}

/// A number that nobody can guess. The emulated boards have no generator, so the debugger reads the host's; a real board
/// brings its own.
pub fn random() -> Option<u32> {
    let mut bytes = [0; 4];
    semihosting::experimental::random::fill_bytes(&mut bytes).ok()?;
    Some(u32::from_le_bytes(bytes))
}
