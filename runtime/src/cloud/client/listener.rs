//! Between the pieces as the server sends them and those the caller gets: placeholders become originals again.

use crate::cloud::OnText;
use crate::privacy::{Restorer, Vault};

pub(super) struct Listener<'a> {
    restorer: Restorer<'a>,
    on_text: OnText<'a>,
    said: String,
}

impl<'a> Listener<'a> {
    pub(super) fn new(vault: &'a Vault, on_text: OnText<'a>) -> Self {
        Self { restorer: Restorer::new(vault), on_text, said: String::new() }
    }

    /// A piece from the server.
    pub(super) fn hear(&mut self, piece: &str) {
        let piece = self.restorer.push(piece);
        self.say(&piece);
    }

    /// The answer is over.
    pub(super) fn end(&mut self) {
        let rest = self.restorer.end();
        self.say(&rest);
    }

    /// Everything that the caller was given.
    pub(super) fn said(&self) -> &str {
        &self.said
    }

    /// Whether the caller was given anything.
    pub(super) fn has_spoken(&self) -> bool {
        !self.said.is_empty()
    }

    fn say(&mut self, piece: &str) {
        if !piece.is_empty() {
            self.said.push_str(piece);
            (self.on_text)(piece);
        }
    }
}
