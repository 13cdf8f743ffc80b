//! Hashed n-grams of an utterance.

/// Most n-grams taken from one utterance; what comes later is not read. With 8-bit weights and [`MAX_HIDDEN`] units this
/// keeps every sum within 32 bits.
///
/// [`MAX_HIDDEN`]: crate::MAX_HIDDEN
pub const MAX_GRAMS: u32 = 1024;

/// Letters in an n-gram of letters, the marks of a word's beginning and end included.
const LETTERS: [usize; 2] = [3, 4];

/// Gives the hash of every n-gram of `text` to `take`, [`MAX_GRAMS`] at most, and returns how many there were.
///
/// A word is a run of ASCII letters and digits, apostrophes and bytes beyond ASCII; ASCII capitals count as small letters. There
/// are n-grams of one and two words, and of three and four bytes inside `<word>`. The hash is FNV-1a over a byte for
/// the kind and the n-gram's bytes, its bits mixed by a multiplication at the end (MurmurHash3's finaliser), so that
/// any of them may choose a bucket.
pub fn grams(text: &str, mut take: impl FnMut(u32)) -> u32 {
    let mut count = 0;
    let mut give = |hash: Hash| {
        if count < MAX_GRAMS {
            count += 1;
            take(hash.mixed());
        }
    };
    let mut before: Option<&[u8]> = None;
    for word in text.as_bytes().split(|byte| !in_word(*byte)).filter(|word| !word.is_empty()) {
        give(Hash::of(1).all(word));
        if let Some(before) = before {
            give(Hash::of(2).all(before).byte(b' ').all(word));
        }
        for letters in LETTERS {
            // Place 0 is the mark of the beginning, place `word.len() + 1` that of the end.
            for start in 0..(word.len() + 2).saturating_sub(letters - 1) {
                give((start..start + letters).fold(Hash::of(3), |hash, place| hash.byte(letter(word, place))));
            }
        }
        before = Some(word);
    }
    count
}

fn in_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'\'' || !byte.is_ascii()
}

/// A letter of `<word>`.
fn letter(word: &[u8], place: usize) -> u8 {
    match place {
        0 => b'<',
        _ => word.get(place - 1).map_or(b'>', u8::to_ascii_lowercase),
    }
}

#[derive(Clone, Copy)]
struct Hash(u32);

impl Hash {
    fn of(kind: u8) -> Self {
        Self(0x811c_9dc5).byte(kind)
    }

    fn byte(self, byte: u8) -> Self {
        Self((self.0 ^ u32::from(byte)).wrapping_mul(0x0100_0193))
    }

    fn all(self, word: &[u8]) -> Self {
        word.iter().fold(self, |hash, byte| hash.byte(byte.to_ascii_lowercase()))
    }

    fn mixed(self) -> u32 {
        let mut hash = self.0;
        hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
        hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
        hash ^ (hash >> 16)
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    fn of(text: &str) -> Vec<u32> {
        let mut all = Vec::new();
        let count = grams(text, |hash| all.push(hash));
        assert_eq!(count as usize, all.len());
        all
    }

    /// Hashes by Python, FNV-1a and MurmurHash3's finaliser written out:
    ///
    /// ```python
    /// def h(b):
    ///     x = 0x811c9dc5
    ///     for c in b: x = ((x ^ c) * 0x01000193) & 0xffffffff
    ///     x ^= x >> 16; x = x * 0x85ebca6b & 0xffffffff; x ^= x >> 13; x = x * 0xc2b2ae35 & 0xffffffff; return x ^ x >> 16
    /// [h(b"\1up"), h(b"\3<up"), h(b"\3up>"), h(b"\3<up>"), h(b"\1it"), h(b"\2up it")]
    /// ```
    #[test]
    fn grams_by_another_program() {
        assert_eq!(of("Up it!")[..6], [0x9f88_b259, 0x8176_dcc1, 0x423f_bcea, 0x9c53_b48b, 0x6277_f386, 0x152d_f009]);
        assert_eq!(of("Up it!").len(), 9);
    }

    #[test]
    fn what_is_said_counts_and_not_how_it_is_written() {
        assert_eq!(of("Turn ON  the-light."), of("turn on the light"));
        assert_ne!(of("turn on the light"), of("turn off the light"));
        assert_eq!(of("  ...!?"), []);
        assert_eq!(of("x").len(), 2, "the word, and <x>");
        assert_ne!(of("kühl"), of("kuhl"));
    }

    #[test]
    fn there_is_an_end() {
        assert_eq!(of(&"word ".repeat(10_000)).len(), MAX_GRAMS as usize);
    }
}
