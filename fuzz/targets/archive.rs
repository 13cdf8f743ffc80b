//! An archive is read within its caps, and what is accepted is a bundle to the last byte.
#![no_main]

use libfuzzer_sys::fuzz_target;
use margay::bundle::{BundleOptions, archive};

fuzz_target!(|bytes: &[u8]| {
    if archive::verify_stream(bytes, &BundleOptions::default()).is_ok() {
        let longer = [bytes, &[0]].concat();
        assert!(archive::verify_stream(longer.as_slice(), &BundleOptions::default()).is_err());
    }
});
