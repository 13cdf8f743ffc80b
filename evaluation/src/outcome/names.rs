//! Texts that many rows share, each held once and named by a number.

use string_interner::backend::StringBackend;
use string_interner::symbol::SymbolU32;
use string_interner::{StringInterner, Symbol as _};

use super::MAX_TEXT_BYTES;
use crate::error::{Error, ErrorKind, Result};

/// Distinct texts, numbered from 0 in the order in which they came.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    interner: StringInterner<StringBackend<SymbolU32>>,
    bytes: usize,
}

impl Default for Names {
    fn default() -> Self {
        Self { interner: StringInterner::new(), bytes: 0 }
    }
}

impl Names {
    /// The number of a text, which is kept if it is new.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`] if it would take all texts together past [`MAX_TEXT_BYTES`].
    pub(crate) fn number(&mut self, text: &str) -> Result<u32> {
        if self.bytes + text.len() > MAX_TEXT_BYTES {
            if let Some(known) = self.find(text) {
                return Ok(known);
            }
            let message =
                format!("distinct texts are over the cap of {MAX_TEXT_BYTES} bytes: name queries by a digest");
            return Err(Error::new(ErrorKind::TooLarge, message));
        }
        let before = self.len();
        let number = self.interner.get_or_intern(text).to_usize() as u32;
        if self.len() > before {
            self.bytes += text.len();
        }
        Ok(number)
    }

    /// The number of a text, if it has one.
    pub(crate) fn find(&self, text: &str) -> Option<u32> {
        self.interner.get(text).map(|symbol| symbol.to_usize() as u32)
    }

    /// The text of a number; nothing for a number that was never given.
    pub(crate) fn text(&self, number: u32) -> &str {
        SymbolU32::try_from_usize(number as usize).and_then(|symbol| self.interner.resolve(symbol)).unwrap_or_default()
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.interner.len()
    }

    /// All texts, by their numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> {
        self.interner.iter().map(|(_, text)| text)
    }
}
