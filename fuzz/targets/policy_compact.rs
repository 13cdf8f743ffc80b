//! What is accepted as a policy in its compact form is the same when it is written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use margay_policy::{MAX_COMPACT_BYTES, Policy};

fuzz_target!(|bytes: &[u8]| {
    let Ok(policy) = Policy::<16>::from_postcard(bytes) else { return };
    let mut buffer = [0; MAX_COMPACT_BYTES];
    let written = policy.to_postcard(&mut buffer).expect("what fits when read fits when written");
    assert_eq!(Policy::from_postcard(written), Ok(policy));
});
