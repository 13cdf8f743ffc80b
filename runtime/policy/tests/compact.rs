//! Policies in their binary form: what is written is read back, nothing else is accepted, and the form stays what it is.
#![cfg(all(feature = "postcard", feature = "std"))]
#![expect(clippy::unwrap_used, reason = "a policy that cannot be made fails the test")]

use margay_policy::{COMPACT_VERSION, CompactError, EarlyBound, MAX_COMPACT_BYTES, Percent, Policy, Rule, Threshold};
use proptest::prelude::*;

fn json(rule: &str) -> Policy<3> {
    let tasks = r#"{"alarm":-0.1,"wetter in \"Köln\"":"inf"}"#;
    let early = r#"{"after_tokens":4,"threshold":-3.0}"#;
    Policy::from_json(&format!(r#"{{"rule":{rule},"default":"-inf","tasks":{tasks},"early":{early}}}"#)).unwrap()
}

const RULES: [&str; 11] = [
    r#""chow-average""#,
    r#""chow-sum""#,
    r#""first-token""#,
    r#""minimum""#,
    r#"{"quantile":10}"#,
    r#""mean-entropy""#,
    r#""mean-margin""#,
    r#"{"linear":{"intercept":2.5,"weights":{"quantile-10":0.5,"chow-average":-1.25}}}"#,
    r#"{"calibrated":{"linear":{"intercept":0.0,"weights":{"chow-sum":1.0}},"map":{"scores":[-1.5,0.0],"values":[0.25,0.9]}}}"#,
    r#"{"benefit":{"small":{"intercept":1.0,"weights":{"minimum":1.0}},"large":{"intercept":0.1,"weights":{"mean-margin":3.0}}}}"#,
    r#"{"mlp":{"features":["minimum","quantile-50"],"units":[{"intercept":1.0,"weights":[0.5,-2.0],"output":1.5}],"bias":0.25}}"#,
];

#[test]
fn every_rule_is_read_back_from_both_forms() {
    for rule in RULES {
        let policy = json(rule);
        assert_eq!(Policy::from_json(&policy.to_json().unwrap()).unwrap(), policy);
        let mut buffer = [0; 256];
        let bytes = policy.to_postcard(&mut buffer).unwrap();
        assert_eq!(Policy::from_postcard(bytes), Ok(policy.clone()), "{rule}");
        for end in 0..bytes.len() {
            assert!(Policy::<3>::from_postcard(&bytes[..end]).is_err(), "{rule} cut at {end}");
        }
        let longer = [bytes, &[0]].concat();
        assert_eq!(Policy::<3>::from_postcard(&longer), Err(CompactError::Trailing { bytes: 1 }));
        assert_eq!(policy.to_postcard(&mut vec![0; bytes.len() - 1]), Err(CompactError::Buffer));
        assert_eq!(Policy::<1>::from_postcard(bytes), Err(CompactError::Malformed), "two tasks, room for one");
    }
}

/// What lies in the flash of devices out there: version, rule's place, threshold's bits, one task, no early bound.
#[test]
fn the_form_stays_what_it_is() {
    let policy: Policy<1> = Policy::new(Rule::Quantile(Percent::new(10).unwrap()), Threshold::new(-0.5).unwrap());
    let policy = policy.with_task("tv", Threshold::KEEP_ALL).unwrap();
    let bytes = [COMPACT_VERSION, 4, 10, 0, 0, 0, 0xbf, 1, 2, b't', b'v', 0, 0, 0x80, 0xff, 0];
    assert_eq!(policy.to_postcard(&mut [0; 64]), Ok(bytes.as_slice()));
    let bound = policy.with_early_bound(EarlyBound { after_tokens: 3, threshold: Threshold::DEFER_ALL });
    let bytes = [&bytes[..15], &[1, 3, 0, 0, 0x80, 0x7f]].concat();
    assert_eq!(bound.to_postcard(&mut [0; 64]), Ok(bytes.as_slice()));
}

#[test]
fn what_no_policy_can_have_is_refused() {
    let of = Policy::<2>::from_postcard;
    assert_eq!(of(&[]), Err(CompactError::Version { found: None }));
    assert_eq!(of(&[9, 0]), Err(CompactError::Version { found: Some(9) }));
    assert_eq!(of(&vec![1; MAX_COMPACT_BYTES + 1]), Err(CompactError::TooLong { bytes: MAX_COMPACT_BYTES + 1 }));
    let zero = [0, 0, 0, 0];
    let nan = f32::NAN.to_le_bytes();
    let with = |parts: &[&[u8]]| of(&[&[COMPACT_VERSION], parts.concat().as_slice()].concat());
    assert!(with(&[&[0], &zero, &[0, 0]]).is_ok());
    assert_eq!(with(&[&[99], &zero, &[0, 0]]), Err(CompactError::Malformed), "no such rule");
    assert_eq!(with(&[&[4, 101], &zero, &[0, 0]]), Err(CompactError::Malformed), "101 per cent");
    assert_eq!(with(&[&[0], &nan, &[0, 0]]), Err(CompactError::Malformed), "a threshold that is no number");
    assert_eq!(with(&[&[0], &zero, &[1, 0], &zero, &[0]]), Err(CompactError::Malformed), "a task without a name");
    let twice = [[1, b'a'].as_slice(), &zero].concat();
    assert_eq!(with(&[&[0], &zero, &[2], &twice, &twice, &[0]]), Err(CompactError::Malformed), "a task twice");
    let weight = [b"\x07minimum".as_slice(), &nan].concat();
    assert_eq!(with(&[&[7], &zero, &[1], &weight, &zero, &[0, 0]]), Err(CompactError::Malformed), "a weight");
}

proptest! {
    /// Anything is refused, or is a policy that is written as it was read, but for longer ways to write the same number.
    #[test]
    fn anything_is_a_policy_or_an_error(mut bytes in prop::collection::vec(any::<u8>(), 0..80), versioned in any::<bool>()) {
        if versioned && !bytes.is_empty() {
            bytes[0] = COMPACT_VERSION;
        }
        if let Ok(policy) = Policy::<4>::from_postcard(&bytes) {
            let mut buffer = [0; 256];
            let written = policy.to_postcard(&mut buffer).unwrap();
            prop_assert!(written.len() <= bytes.len());
            prop_assert_eq!(Policy::from_postcard(written), Ok(policy));
        }
    }
}
