//! A `margay.toml` is read or refused with its name and a place in it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use margay::ErrorKind;
use margay::configuration::Configuration;

fuzz_target!(|text: &str| {
    if let Err(error) = Configuration::parse(text, "margay.toml", "", &[]) {
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.to_string().starts_with("margay.toml"), "{error}");
    }
});
