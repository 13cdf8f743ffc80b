//! What comes out of a command: lines and bars for people, or one line of JSON for programs.

use std::io::{self, IsTerminal as _, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::error::{Error, Result};

/// Where lines and results go. Bars go to the terminal, and only if there is one.
pub struct Console {
    out: Box<dyn Write + Send>,
    bars: bool,
    json: bool,
}

impl Console {
    /// Lines to standard output, bars on standard error.
    #[must_use]
    pub fn standard() -> Self {
        Self { out: Box::new(io::stdout()), bars: true, json: false }
    }

    /// Lines to `out`, no bars.
    #[must_use]
    pub fn to(out: Box<dyn Write + Send>) -> Self {
        Self { out, bars: false, json: false }
    }

    /// If `json`, a program listens from here on: [`Console::result`] speaks JSON, and lines go to standard error.
    pub fn for_programs(&mut self, json: bool) {
        self.json |= json;
    }

    /// Says what came of a command: to programs `value` as one line of JSON, to people `lines`. Paths go into it as lossy texts:
    /// one that is not Unicode has no JSON.
    ///
    /// # Errors
    /// As [`Console::line`].
    pub fn result(&mut self, value: &impl Serialize, lines: impl IntoIterator<Item = impl AsRef<str>>) -> Result<()> {
        if !self.json {
            return lines.into_iter().try_for_each(|line| self.line(line));
        }
        let json = serde_json::to_string(value);
        let json = json.map_err(|error| Error::Usage(format!("cannot be written as JSON: {error}")))?;
        self.write(&format!("{json}\n"))
    }

    /// Prints one line for people.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be written, e.g. because the reader of a pipe is gone.
    pub fn line(&mut self, text: impl AsRef<str>) -> Result<()> {
        self.piece(&format!("{}\n", text.as_ref()))
    }

    /// Prints a piece of a line, to be seen at once.
    ///
    /// # Errors
    /// As [`Console::line`].
    pub fn piece(&mut self, text: &str) -> Result<()> {
        if self.json { self.aside().write(text) } else { self.write(text) }
    }

    fn write(&mut self, text: &str) -> Result<()> {
        let written = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
        written.map_err(|source| Error::Io { action: "write to standard output".into(), source })
    }

    /// A console for what is no result: to standard error, so that standard output can be read by programs.
    #[must_use]
    pub fn aside(&self) -> Self {
        let out: Box<dyn Write + Send> = if self.bars { Box::new(io::stderr()) } else { Box::new(io::sink()) };
        Self { out, bars: self.bars, json: false }
    }

    /// Whether lines may have colours: only a terminal shows them, and not if its owner has said `NO_COLOR`.
    #[must_use]
    pub fn colours(&self) -> bool {
        self.bars && io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
    }

    /// A bar over `length` units with its own message; it disappears when it is dropped.
    #[must_use]
    pub fn bar(&self, what: &'static str, length: u64) -> Bar {
        if !self.bars {
            return Bar(ProgressBar::hidden());
        }
        let style = ProgressStyle::with_template("  {prefix:<14} {bar:32} {pos}/{len}  {msg}  {eta} left")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(length).with_style(style).with_prefix(what);
        bar.enable_steady_tick(Duration::from_millis(200));
        Bar(bar)
    }
}

/// A progress bar that clears itself.
pub struct Bar(ProgressBar);

impl Bar {
    /// Moves on by `by` units.
    pub fn advance(&self, by: u64) {
        self.0.inc(by);
    }

    /// Moves to `position` units.
    pub fn at(&self, position: u64) {
        self.0.set_position(position);
    }

    /// Takes the bar away while something is printed.
    pub fn suspend<T>(&self, print: impl FnOnce() -> T) -> T {
        self.0.suspend(print)
    }

    /// Changes the message behind the bar.
    pub fn say(&self, message: String) {
        self.0.set_message(message);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Prints an error, its causes and what to do about it to standard error, one a line. A cause that an earlier line already
/// names is left out.
pub fn complain(error: &Error) {
    let advice = error.advice();
    let error: &dyn std::error::Error = error;
    let mut said = error.to_string();
    let mut text = format!("error: {said}\n");
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !said.contains(&cause_text) {
            text.push_str(&format!("  because: {cause_text}\n"));
            said = cause_text;
        }
        next = cause.source();
    }
    if let Some(advice) = advice {
        text.push_str(&format!("  next: {advice}\n"));
    }
    // Nobody is left to tell if this fails.
    let _unread = io::stderr().write_all(text.as_bytes());
}
