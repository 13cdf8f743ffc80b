//! What is accepted as a manifest means the same when it is written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use margay::bundle::digest::ModelDigest;
use margay::bundle::manifest::Manifest;

fuzz_target!(|bytes: &[u8]| {
    let Ok(manifest) = Manifest::parse(bytes) else { return };
    let written = serde_json::to_vec(&manifest).expect("a manifest can be written");
    let again = Manifest::parse(&written).expect("what was written can be read");
    assert_eq!(ModelDigest::compute(&again), ModelDigest::compute(&manifest));
    for variant in &manifest.variants {
        let own = manifest.variant(&variant.name).expect("it has the variant");
        assert!(own.files.len() <= manifest.files.len());
    }
});
