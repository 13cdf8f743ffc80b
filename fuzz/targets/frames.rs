//! Whatever comes over a serial line: no panic, and what is read as a message is written as one that is read alike.
#![no_main]

use libfuzzer_sys::fuzz_target;
use margay_link::{MAX_FRAME, Receiver, encode};

fuzz_target!(|bytes: &[u8]| {
    let (mut receiver, mut again) = (Receiver::new(), Receiver::new());
    for &byte in bytes {
        let Some(Ok(message)) = receiver.push(byte) else { continue };
        let mut buffer = [0; MAX_FRAME];
        let frame = encode(&message, &mut buffer).expect("what was read can be written");
        let read = frame.iter().fold(false, |read, &byte| read | (again.push(byte) == Some(Ok(message))));
        assert!(read, "{message:?}");
    }
});
