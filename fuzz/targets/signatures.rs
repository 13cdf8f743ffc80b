//! Whatever a signature file holds, it vouches for nothing that its keys did not sign.
#![no_main]

use libfuzzer_sys::fuzz_target;
use margay::bundle::signature::Signatures;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(signatures) = Signatures::parse(bytes) {
        assert!(signatures.verify(b"a manifest that nobody has signed").is_err());
    }
});
