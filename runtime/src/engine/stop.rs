//! Stop strings: text is let through as soon as it is certain that no stop string begins in it.

/// Watches the text of one answer for the first stop string.
pub(super) struct StopStrings<'a> {
    stops: &'a [String],
    /// Text that may be the beginning of a stop string.
    held: String,
}

/// What became of a piece of text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Passed {
    /// It is part of the answer.
    On(String),
    /// The answer ends with this text, because stop string `index` follows it.
    Stopped { text: String, index: usize },
}

impl<'a> StopStrings<'a> {
    pub(super) fn new(stops: &'a [String]) -> Self {
        Self { stops, held: String::new() }
    }

    /// Takes the next piece of text and gives back what may be shown.
    ///
    /// The earliest stop string wins, the first in the list of those that begin at the same place and are complete.
    pub(super) fn push(&mut self, text: String) -> Passed {
        if self.stops.is_empty() {
            return Passed::On(text);
        }
        self.held.push_str(&text);
        let found = (0_usize..)
            .zip(self.stops)
            .filter_map(|(index, stop)| self.held.find(stop.as_str()).map(|at| (at, index)))
            .min();
        if let Some((at, index)) = found {
            self.held.truncate(at);
            return Passed::Stopped { text: std::mem::take(&mut self.held), index };
        }
        let keep = self.stops.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        Passed::On(std::mem::replace(&mut self.held, rest))
    }

    /// What is still held back, when nothing follows any more.
    pub(super) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Length in bytes of the longest end of `text` that is a beginning of `stop`, and not all of it.
fn overlap(text: &str, stop: &str) -> usize {
    let most = text.len().min(stop.len() - 1);
    // Both cuts are at character borders: an end of `text` that equals a beginning of `stop` starts and ends with one.
    (1..=most).rev().find(|n| text.as_bytes()[text.len() - n..] == stop.as_bytes()[..*n]).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(pieces: &[&str], stops: &[&str]) -> (Vec<String>, Option<usize>) {
        let stops: Vec<String> = stops.iter().map(|stop| (*stop).to_owned()).collect();
        let mut watch = StopStrings::new(&stops);
        let mut out = Vec::new();
        for piece in pieces {
            match watch.push((*piece).to_owned()) {
                Passed::On(text) => out.push(text),
                Passed::Stopped { text, index } => {
                    out.push(text);
                    return (out, Some(index));
                }
            }
        }
        out.push(watch.finish());
        (out, None)
    }

    #[test]
    fn a_stop_string_across_pieces_is_never_shown() {
        let out = |parts: &[&str]| parts.iter().map(|part| (*part).to_owned()).collect::<Vec<_>>();
        assert_eq!(run(&["ab", "c", "de"], &["cd"]), (out(&["ab", "", ""]), Some(0)));
        assert_eq!(run(&["ab", "c", "e"], &["cd"]), (out(&["ab", "", "ce", ""]), None));
        // The false start "aa" is let through as the third "a" comes.
        assert_eq!(run(&["a", "a", "a", "b"], &["aab"]), (out(&["", "", "a", ""]), Some(0)));
        assert_eq!(run(&["so, ", "en", "de"], &["Ende", "ende"]), (out(&["so, ", "", ""]), Some(1)));
        assert_eq!(run(&["x🐈", "🐈‍"], &["🐈🐈"]), (out(&["x", ""]), Some(0)));
        assert_eq!(run(&["left"], &[]), (out(&["left", ""]), None));
    }

    proptest! {
        /// However the text is cut, what is shown is the text before the first stop string.
        #[test]
        fn cuts_do_not_matter(
            text in "[abä🐈]{0,24}",
            stops in prop::collection::vec("[abä🐈]{1,4}", 0..4),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
        ) {
            let expected = stops.iter().filter_map(|stop| text.find(stop.as_str())).min().unwrap_or(text.len());
            let mut borders: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            borders.retain(|border| text.is_char_boundary(*border));
            borders.extend([0, text.len()]);
            borders.sort_unstable();
            let pieces: Vec<&str> = borders.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let (shown, stopped) = run(&pieces, &stops);
            let shown = shown.concat();
            // A stop string that begins later but is complete earlier may end the answer first.
            prop_assert!(text.starts_with(&shown));
            prop_assert_eq!(stopped.is_some(), expected < text.len() || stops.iter().any(|stop| text.contains(stop)));
            for stop in &stops {
                prop_assert!(!shown.contains(stop), "{:?} was shown in {:?}", stop, shown);
            }
        }
    }
}
