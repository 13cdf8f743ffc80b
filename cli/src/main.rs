//! The `margay` binary. Everything is in the library; here only the allocator is chosen.

use std::process::ExitCode;

/// Training makes and drops large tensors all the time: a caching allocator is worth a quarter of its time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    margay_cli::main()
}
