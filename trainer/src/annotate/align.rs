//! Two tokenizers over one text: what the large model's tokens say about the small model's, by the bytes they share.

use std::ops::Range;

/// A token of the large model: which bytes of the text it covers, and whether it was the large model's top-1 guess.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LargeToken {
    /// Bytes of the text.
    pub span: Range<usize>,
    /// Whether it was guessed.
    pub hit: bool,
}

/// Whether the large model predicts each small-model token: every large-model token that overlaps its bytes is a hit.
///
/// A small-model token without bytes counts as the byte it stands before, one behind the text as the last token.
/// Bytes that no large-model token covers are no hit: nothing is known of them.
#[must_use]
pub fn hits(small: &[Range<usize>], large: &[LargeToken]) -> Vec<bool> {
    let end = large.iter().map(|token| token.span.end).max().unwrap_or(0);
    let of = |span: &Range<usize>| {
        let start = span.start.min(end.saturating_sub(1));
        let span = start..span.end.max(start + 1);
        let mut covered = span.start;
        let mut all = true;
        for token in large.iter().filter(|token| token.span.start < span.end && token.span.end > span.start) {
            if token.span.start > covered {
                return false;
            }
            covered = covered.max(token.span.end);
            all &= token.hit;
        }
        all && covered >= span.end
    };
    small.iter().map(of).collect()
}

/// How a tokenizer shows a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Its bytes.
    Bytes(Vec<u8>),
    /// Its text, in which bytes that are no character by themselves are U+FFFD.
    Text(String),
}

/// Which bytes of `text` each token covers, for tokens that together are the text.
///
/// Tokens that split a character between them each cover all of it, as far as their texts do not tell. `None` if they are
/// not this text.
#[must_use]
pub fn spans(pieces: &[Piece], text: &str) -> Option<Vec<Range<usize>>> {
    let bytes = text.as_bytes();
    let mut spans = Vec::with_capacity(pieces.len());
    let (mut at, mut torn) = (0, Vec::new());
    for (number, piece) in pieces.iter().enumerate() {
        let known = match piece {
            Piece::Bytes(piece) => Some(piece.as_slice()),
            Piece::Text(piece) if piece.contains(char::REPLACEMENT_CHARACTER) && !text[at..].starts_with(piece) => None,
            Piece::Text(piece) => Some(piece.as_bytes()),
        };
        let Some(known) = known else {
            torn.push(number);
            spans.push(at..at);
            continue;
        };
        let from = if torn.is_empty() {
            at
        } else {
            // The torn tokens are the shortest text that the next whole token can follow.
            let after = at + 1;
            (after..=bytes.len()).find(|&from| text.is_char_boundary(from) && bytes[from..].starts_with(known))?
        };
        if !bytes.get(from..)?.starts_with(known) {
            return None;
        }
        torn.drain(..).for_each(|number: usize| spans[number] = at..from);
        at = from + known.len();
        spans.push(from..at);
    }
    torn.drain(..).for_each(|number| spans[number] = at..bytes.len());
    let rest = spans.iter().map(|span| span.end).max().unwrap_or(0);
    (rest == bytes.len()).then_some(spans)
}

/// Hits where only the large model's own answer is known: up to the first byte in which it differs from the target, its
/// greedy answer is what it predicts under teacher forcing; what it would have said after that nobody knows.
#[must_use]
pub fn hits_of_answer(small: &[Range<usize>], target: &str, answer: &str) -> Vec<bool> {
    let same = target.bytes().zip(answer.bytes()).take_while(|(a, b)| a == b).count();
    let whole = target == answer;
    // The end of the answer is a token behind the text.
    small.iter().map(|span| if span.start >= target.len() { whole } else { span.end <= same }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn large(cuts: &[usize], hit: &[bool]) -> Vec<LargeToken> {
        cuts.windows(2).zip(hit).map(|(cut, &hit)| LargeToken { span: cut[0]..cut[1], hit }).collect()
    }

    #[test]
    fn a_token_is_hit_when_all_that_overlap_it_are() {
        // "play music": small cuts it at 4, large at 2, 6.
        let large = large(&[0, 2, 6, 10], &[true, false, true]);
        assert_eq!(hits(&[0..4, 4..10], &large), [false, false]);
        assert_eq!(hits(&[0..2, 2..6, 6..10], &large), [true, false, true]);
        assert_eq!(hits(&[0..1, 7..8, 5..7, 10..10], &large), [true, true, false, true]);
    }

    #[test]
    fn bytes_that_nothing_covers_are_no_hit() {
        let large = [LargeToken { span: 0..2, hit: true }, LargeToken { span: 3..5, hit: true }];
        assert_eq!(hits(&[0..2, 1..4, 3..5], &large), [true, false, true]);
        assert_eq!(hits(&[0..2, 2..3], &[]), [false, false]);
    }

    #[test]
    fn pieces_that_tear_characters_cover_them_whole() {
        let text = "a\u{1F408}\u{200D}é\u{301}\u{5C71}\u{732B}z";
        let whole = |piece: &str| Piece::Text(piece.into());
        let torn = || Piece::Text("\u{FFFD}".into());
        let pieces =
            [whole("a"), torn(), torn(), whole("\u{200D}"), whole("é\u{301}"), torn(), torn(), torn(), whole("z")];
        let found = spans(&pieces, text).unwrap();
        assert_eq!(found[..4], [0..1, 1..5, 1..5, 5..8]);
        assert_eq!(&text[found[4].clone()], "é\u{301}");
        assert!(found[5..8].iter().all(|span| &text[span.clone()] == "\u{5C71}\u{732B}"));
        assert_eq!(found[8], text.len() - 1..text.len());
        // As bytes nothing is lost.
        let bytes: Vec<Piece> = text.bytes().map(|byte| Piece::Bytes(vec![byte])).collect();
        assert_eq!(spans(&bytes, text).unwrap(), (0..text.len()).map(|at| at..at + 1).collect::<Vec<_>>());
        // A replacement character that really stands in the text is a character.
        assert_eq!(spans(&[whole("\u{FFFD}"), whole("x")], "\u{FFFD}x").unwrap(), [0..3, 3..4]);
        assert_eq!(spans(&[torn(), torn()], "\u{1F408}").unwrap(), [0..4, 0..4]);
    }

    #[test]
    fn pieces_of_another_text_are_refused() {
        assert_eq!(spans(&[Piece::Text("b".into())], "a"), None);
        assert_eq!(spans(&[Piece::Text("a".into())], "ab"), None);
        assert_eq!(spans(&[Piece::Text("abc".into())], "ab"), None);
    }

    #[test]
    fn an_answer_counts_up_to_where_it_differs() {
        let small = [0..4, 4..10, 10..10];
        assert_eq!(hits_of_answer(&small, "play music", "play music"), [true, true, true]);
        assert_eq!(hits_of_answer(&small, "play music", "play movie"), [true, false, false]);
        assert_eq!(hits_of_answer(&small, "play music", "play music now"), [true, true, false]);
        assert_eq!(hits_of_answer(&small, "play music", ""), [false, false, false]);
    }

    /// Texts of everything that breaks tokenizers, cut at random bytes and at random characters.
    fn texts() -> impl Strategy<Value = String> {
        let nasty = [
            "a",
            " ",
            "\n",
            "é",
            "e\u{301}",
            "\u{200D}",
            "\u{1F469}\u{200D}\u{1F4BB}",
            "\u{5C71}",
            "\u{FFFD}",
            "\u{202E}",
            "\u{FEFF}",
            "ß",
            "\u{1D11E}",
            "\u{0}",
            "ﬁ",
        ];
        proptest::collection::vec(proptest::sample::select(nasty.to_vec()), 1..12).prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn spans_tile_the_text_however_it_is_cut(text in texts(), seed in any::<u64>()) {
            let cuts: Vec<usize> = (0..=text.len()).filter(|at| *at == 0 || *at == text.len() || (seed >> (at % 64)) & 1 == 1).collect();
            let pieces: Vec<Piece> =
                cuts.windows(2).map(|cut| Piece::Bytes(text.as_bytes()[cut[0]..cut[1]].to_vec())).collect();
            let found = spans(&pieces, &text).unwrap();
            prop_assert!(found.iter().zip(cuts.windows(2)).all(|(span, cut)| *span == (cut[0]..cut[1])));
        }

        #[test]
        fn torn_texts_still_cover_every_byte_they_have(text in texts(), seed in any::<u64>()) {
            let cuts: Vec<usize> = (0..=text.len()).filter(|at| *at == 0 || *at == text.len() || (seed >> (at % 64)) & 1 == 1).collect();
            let lossy = |cut: &[usize]| Piece::Text(String::from_utf8_lossy(&text.as_bytes()[cut[0]..cut[1]]).into_owned());
            let pieces: Vec<Piece> = cuts.windows(2).map(lossy).collect();
            // Torn beyond recognition is allowed to be refused, but never to be wrong.
            if let Some(found) = spans(&pieces, &text) {
                prop_assert!(found.iter().all(|span| text.is_char_boundary(span.start) && text.is_char_boundary(span.end)));
                let clean = pieces.iter().zip(&found).filter(|(piece, _)| matches!(piece, Piece::Text(t) if !t.contains('\u{FFFD}')));
                for (piece, span) in clean {
                    prop_assert_eq!(piece, &Piece::Text(text[span.clone()].to_owned()));
                }
            }
        }

        #[test]
        fn the_same_cuts_give_the_same_hits_and_more_hits_never_fewer(
            text in texts(), seed in any::<u64>(), hit in proptest::collection::vec(any::<bool>(), 64), more in any::<usize>()
        ) {
            let cuts: Vec<usize> = (0..=text.len()).filter(|at| *at == 0 || *at == text.len() || (seed >> (at % 64)) & 1 == 1).collect();
            let tokens = large(&cuts, &hit.iter().copied().cycle().take(cuts.len()).collect::<Vec<_>>());
            let same: Vec<_> = tokens.iter().map(|token| token.span.clone()).collect();
            let own = hits(&same, &tokens);
            prop_assert!(own.iter().zip(&tokens).all(|(hit, token)| *hit == token.hit));
            let small: Vec<_> = (0..text.len()).map(|at| at..(at + 3).min(text.len())).collect();
            let mut better = tokens.clone();
            let chosen = more % better.len();
            better[chosen].hit = true;
            prop_assert!(hits(&small, &tokens).iter().zip(hits(&small, &better)).all(|(before, after)| !before || after));
        }
    }
}
