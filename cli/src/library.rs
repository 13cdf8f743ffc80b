//! ONNX Runtime's library, for every command that runs a graph.

use std::path::{Path, PathBuf};

use margay::device::library::{Library, Locate};
use margay::{Bundle, BundleOptions, DeviceOptions, Engine};

use crate::console::Console;
use crate::error::Result;

/// Finds the library, or fetches it with a line for each step of that, and loads it. Lines begin with `prefix`.
pub(crate) fn prepare(console: &mut Console, prefix: &str) -> Result<()> {
    Ok(find(console, prefix)?.initialise()?)
}

/// Opens the bundle and loads its model, with the library found or fetched.
pub(crate) fn open(bundle: &Path, device: DeviceOptions, console: &mut Console) -> Result<(Bundle, Engine)> {
    let library = Some(find(&mut console.aside(), "")?);
    Ok(Engine::open(bundle, &BundleOptions::default(), DeviceOptions { library, ..device })?)
}

/// Where commands keep what a model need not do again at the next start, unless told otherwise.
pub(crate) fn device_cache() -> Option<PathBuf> {
    Locate::from_environment().cache.map(|cache| cache.join("device"))
}

fn find(console: &mut Console, prefix: &str) -> Result<Library> {
    let mut unprinted = Ok(());
    let library = Locate::from_environment().find_or_fetch(&mut |progress| {
        let printed = console.line(format!("{prefix}{progress}"));
        unprinted = std::mem::replace(&mut unprinted, Ok(())).and(printed);
    })?;
    unprinted?;
    Ok(library)
}
