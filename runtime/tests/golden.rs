//! Golden vectors: what another program says the toy computes is found again, and anything else is told apart.

mod common;

use common::{Expected, engine_of, toy};
use margay::ErrorKind;
use margay::bundle::manifest::{Golden, GoldenPosition, Greedy};

/// The vector of `make_toy.py`'s prompt.
fn golden(expected: &Expected) -> Golden {
    let top = |position: usize| {
        let mut top: Vec<(u32, f32)> = (0..).zip(expected.logits[position].iter().copied()).collect();
        top.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        GoldenPosition { position, top }
    };
    Golden {
        text: Some(expected.text.clone()),
        ids: expected.prompt.clone(),
        positions: [0, 20, 37].map(top).into(),
        tolerance: 1e-3,
        greedy: Some(Greedy { ids: expected.greedy.clone(), text: expected.greedy_text.clone() }),
    }
}

#[test]
fn what_the_toy_computes_is_found_again() {
    let (folder, expected) = (toy(), Expected::read());
    let engine = engine_of(folder.path());
    let report = engine.check_golden(&[golden(&expected)]).unwrap();
    assert_eq!((report.sequences, report.positions, report.tokenized), (1, 3, 1));
    assert_eq!(report.continued, expected.greedy.len());
    assert!(report.largest_difference < 1e-3, "{report}");
    assert_eq!(engine.greedy(&expected.prompt, expected.greedy.len()).unwrap(), expected.greedy);
    assert!(engine.greedy(&expected.prompt, 0).unwrap().is_empty());
}

#[test]
fn anything_else_is_told_apart() {
    let (folder, expected) = (toy(), Expected::read());
    let engine = engine_of(folder.path());
    type Spoil = fn(&mut Golden);
    let cases: &[(Spoil, &str)] = &[
        (|golden| golden.text = Some("two cats".into()), "other ids"),
        (|golden| golden.positions[1].top[0].1 += 0.01, "position 20"),
        (|golden| golden.positions[2].top[3].1 = f32::NAN, "position 37"),
        (|golden| golden.positions[0].top[0].0 = 320, "position 0"),
        (|golden| golden.greedy.as_mut().unwrap().ids[3] = 4, "token 3 behind it is 318 instead of 4"),
        (|golden| golden.greedy.as_mut().unwrap().text.push('!'), "another text"),
    ];
    for (spoil, why) in cases {
        let mut golden = golden(&expected);
        spoil(&mut golden);
        let error = engine.check_golden(&[golden]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Inference, "{why}: {error}");
        assert!(error.to_string().contains(why), "{why}: {error}");
    }
    let empty = Golden { text: None, ids: vec![], greedy: None, ..golden(&expected) };
    assert_eq!(engine.check_golden(&[empty]).unwrap_err().kind(), ErrorKind::InvalidRequest);
}
