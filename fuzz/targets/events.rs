//! A stream of events says the same wherever it is cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use margay::cloud::sse::Parser;

fuzz_target!(|bytes: &[u8]| {
    let Ok(whole) = Parser::default().feed(bytes) else { return };
    let mut parser = Parser::default();
    let single: Vec<_> = bytes.chunks(1).flat_map(|byte| parser.feed(byte).expect("it was read whole")).collect();
    assert_eq!(whole, single);
});
