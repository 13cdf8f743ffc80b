//! The committed verdicts of twelve thousand streams. The same file is checked on an emulated microcontroller.

#[path = "golden/streams.rs"]
mod streams;

use streams::{RECORD, STREAMS, record};

/// Written by `cargo run -p margay-policy --example golden-verdicts`, on x86-64.
static VERDICTS: &[u8] = include_bytes!("golden/verdicts.bin");

#[test]
fn verdicts_are_the_same_bits_as_ever() {
    let (records, rest) = VERDICTS.as_chunks::<RECORD>();
    assert_eq!((records.len(), rest.len()), (STREAMS as usize, 0));
    for (index, expected) in (0..).zip(records) {
        assert_eq!(record(index), *expected, "stream {index}");
    }
}

/// Every kind of verdict is there often enough for the test above to mean something.
#[test]
fn the_streams_cover_every_verdict() {
    let mut counts = [0; 256];
    for record in VERDICTS.as_chunks::<RECORD>().0 {
        counts[usize::from(record[4])] += 1;
    }
    let [keep, low, early, no_tokens, unscorable, ..] = counts;
    assert!(keep > 2_000 && low > 500 && early > 1_000 && no_tokens > 100 && unscorable > 400, "{:?}", &counts[..5]);
    assert_eq!(keep + low + early + no_tokens + unscorable, STREAMS);

    // Learned rules and logits of 8 bits, which came later, do not hide behind the others.
    let mut learned = [0; 5];
    VERDICTS.as_chunks::<RECORD>().0[10_000..].iter().for_each(|record| learned[usize::from(record[4])] += 1);
    assert!(learned[..3].iter().all(|&count| count > 200) && learned[4] > 80, "{learned:?}");
}
