//! What the process ends with. This is the one place that says so: help, man pages and tests read it here.

use std::process::ExitCode;

/// It did what it was asked to.
pub const SUCCESS: u8 = 0;
/// It could not, or what it checked is not as it should be; standard error says why.
pub const FAILURE: u8 = 1;
/// The command line makes no sense; nothing was done.
pub const USAGE: u8 = 2;
/// Ctrl-C, or a polite kill, ended it: 128 and the signal's number, as shells expect it.
pub const INTERRUPTED: u8 = 130;

/// The same in words, below `margay --help`.
pub(crate) const HELP: &str = "\
Exit codes:
  0    it did what it was asked to
  1    it could not, or what it checked is not as it should be; standard error says why
  2    the command line makes no sense
  130  it was interrupted

With --json, standard output is one JSON object a line and nothing else; lines for people and errors go to standard error.
`margay COMMAND --help` has examples.";

/// The code for an outcome.
#[must_use]
pub(crate) fn of<E>(done: &Result<(), E>) -> ExitCode {
    ExitCode::from(if done.is_ok() { SUCCESS } else { FAILURE })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_in_the_help() {
        for code in [SUCCESS, FAILURE, USAGE, INTERRUPTED] {
            assert!(HELP.contains(&format!("\n  {code:<3}  ")), "{code}");
        }
    }
}
