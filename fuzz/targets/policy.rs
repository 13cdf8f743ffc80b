//! What is accepted as a policy is the same when it is written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use margay::bundle::CalibratedPolicy;

fuzz_target!(|bytes: &[u8]| {
    let model = format!("sha256:{}", "0".repeat(64)).parse().expect("a digest");
    let Ok(policy) = CalibratedPolicy::parse(bytes, &model) else { return };
    let written = serde_json::to_vec(&policy).expect("a policy can be written");
    CalibratedPolicy::parse(&written, &model).expect("what was written can be read");
});
