//! OpenVINO for real: the plug-in of the Python package `onnxruntime-ep-openvino`, named by `MARGAY_OPENVINO_PLUGIN`.
#![cfg(feature = "openvino")]
#![expect(clippy::unwrap_used, reason = "a failed preparation fails the test")]

mod common;

use std::ops::ControlFlow;

use common::{Expected, fixtures, library};
use margay::device::{EpPolicy, Outcome, Provider};
use margay::{Bundle, DeviceOptions, Engine, ErrorKind, Request, Result};

fn load(policy: EpPolicy, options: &[(&str, &str)]) -> Result<Engine> {
    let plugin = std::env::var_os("MARGAY_OPENVINO_PLUGIN").unwrap();
    let options = DeviceOptions {
        library: Some(library()),
        threads: Some(1),
        providers: vec![Provider::OpenVino],
        plugins: vec![(Provider::OpenVino, plugin.into())],
        provider_options: options
            .iter()
            .map(|(key, value)| (Provider::OpenVino, (*key).to_owned(), (*value).to_owned()))
            .collect(),
        policy,
        ..DeviceOptions::default()
    };
    Engine::load(&Bundle::open(fixtures().join("toy"))?, options)
}

#[test]
#[ignore = "needs OpenVINO's plug-in, 52 MB: pip download --no-deps onnxruntime-ep-openvino==1.8.1"]
fn the_plug_in_runs_the_graph_and_answers_as_the_cpu_does() {
    let expected = Expected::read();
    let engine = load(EpPolicy::Require, &[]).unwrap();
    let report = engine.report();
    assert_eq!(report.provider, Provider::OpenVino);
    assert!(report.nodes.unwrap()["OpenVINOExecutionProvider"] > 0);
    let request = Request::messages(expected.messages.clone()).max_tokens(expected.greedy.len());
    let generation = engine.generate(&request, None, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(generation.token_ids, expected.greedy);

    // Its own choice on this kind of CPU is bfloat16: the canary finds that this is another model.
    let imprecise = [("load_config", "{\"CPU\": {\"INFERENCE_PRECISION_HINT\": \"bf16\"}}")];
    assert_eq!(load(EpPolicy::Require, &imprecise).unwrap_err().kind(), ErrorKind::Provider);
    let report = load(EpPolicy::Prefer, &imprecise).unwrap().report();
    assert_eq!(report.provider, Provider::Cpu);
    assert!(matches!(&report.attempts[0].outcome, Outcome::Dropped(why) if why.contains("canary")), "{report:?}");

    // Measured, it is kept only if it is faster than the CPU; either way the report has both times.
    let report = load(EpPolicy::Auto, &[]).unwrap().report();
    assert_eq!(report.attempts.len(), 2);
    assert!(report.attempts.iter().all(|attempt| attempt.canary.is_some()), "{report:?}");
    let fastest = report.attempts.iter().min_by_key(|attempt| attempt.canary).unwrap();
    assert_eq!((fastest.provider, &fastest.outcome), (report.provider, &Outcome::InUse));
}
