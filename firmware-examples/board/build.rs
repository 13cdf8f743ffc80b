//! Puts the board's memory map where the linker looks for it.

use std::path::PathBuf;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let riscv = env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|architecture| architecture == "riscv32");
    let map = if riscv { "virt.x" } else { "mps2.x" };
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?);
    fs::copy(map, out.join("memory.x"))?;
    println!("cargo::rustc-link-search={}", out.display());
    println!("cargo::rerun-if-changed={map}");
    Ok(())
}
