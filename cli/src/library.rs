//! ONNX Runtime's library, for every command that runs a graph.

use margay::device::library::Locate;

use crate::console::Console;
use crate::error::Result;

/// Finds the library, or fetches it with a line for each step of that, and loads it. Lines begin with `prefix`.
pub(crate) fn prepare(console: &mut Console, prefix: &str) -> Result<()> {
    let mut unprinted = Ok(());
    let library = Locate::from_environment().find_or_fetch(&mut |progress| {
        let printed = console.line(format!("{prefix}{progress}"));
        unprinted = std::mem::replace(&mut unprinted, Ok(())).and(printed);
    })?;
    unprinted?;
    Ok(library.initialise()?)
}
