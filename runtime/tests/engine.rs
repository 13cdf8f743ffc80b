//! The engine against a toy model whose logits, ids and text were computed by other people's programs
//! (`fixtures/make_toy.py`).

mod common;

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::time::Duration;

use common::{Expected, edit_manifest, engine, engine_of, library, toy};
use margay::device::{EpPolicy, Outcome, Provider};
use margay::policy::{Policy, Reason, Rule, Threshold, Verdict};
use margay::{Bundle, Cancel, Deadline, DeviceOptions, Engine, ErrorKind, Finish, Message, Request, Token};

const TOLERANCE: f32 = 1e-4;

fn keep_going(_: Token<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn request(expected: &Expected) -> Request {
    Request::messages(expected.messages.clone()).max_tokens(expected.greedy.len())
}

fn assert_close(actual: &[f32], expected: &[f32], what: &str) {
    for (id, (actual, expected)) in actual.iter().zip(expected).enumerate() {
        assert!((actual - expected).abs() <= TOLERANCE, "{what}, id {id}: {actual} instead of {expected}");
    }
}

#[test]
fn the_prompt_has_the_ids_that_jinja2_and_the_tokenizers_package_give() {
    let expected = Expected::read();
    assert_eq!(engine().encode_prompt(&expected.messages).unwrap(), expected.prompt);
}

#[test]
fn logits_agree_with_numpy_in_one_pass_and_token_by_token() {
    let (engine, expected) = (engine(), Expected::read());
    let decoded = engine.decode_logits(&expected.prompt).unwrap();
    assert_eq!(decoded.len(), expected.prompt.len());
    for (position, row) in expected.logits.iter().enumerate() {
        assert_close(&decoded[position], row, &format!("decode, position {position}"));
        let prefill = engine.logits(&expected.prompt[..=position]).unwrap();
        assert_eq!(prefill.len(), engine.manifest().model.vocabulary_size);
        assert_close(&prefill, row, &format!("prefill, position {position}"));
    }
}

#[test]
fn a_sequence_that_outgrows_the_cache_is_computed_the_same() {
    let (engine, expected) = (engine(), Expected::read());
    let long: Vec<u32> = (0..600).map(|position| (position * 7 + 5) % 320).collect();
    let decoded = engine.decode_logits(&long).unwrap();
    for position in [0, 255, 256, 257, 599] {
        let prefill = engine.logits(&long[..=position]).unwrap();
        assert_close(&decoded[position], &prefill, &format!("position {position}"));
    }
    // What the long sequence left in the cache is not seen by the next.
    assert_close(&engine.logits(&expected.prompt).unwrap(), expected.logits.last().unwrap(), "afterwards");
}

#[test]
fn generation_is_greedy_and_streams_what_it_returns() {
    let (engine, expected) = (engine(), Expected::read());
    let (mut ids, mut streamed) = (Vec::new(), String::new());
    let generation = engine
        .generate(&request(&expected), None, &mut |token| {
            ids.push(token.id);
            streamed.push_str(token.text);
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(generation.token_ids, expected.greedy);
    assert_eq!(generation.text, expected.greedy_text);
    assert_eq!(generation.finish, Finish::Length);
    assert_eq!(generation.prompt_tokens, expected.prompt.len());
    assert_eq!(generation.signals.len(), expected.greedy.len());
    assert_eq!(ids, expected.greedy);
    assert_eq!(streamed, expected.greedy_text);
    assert!(generation.decision.is_none());
    for (signals, expected) in generation.signals.iter().zip(&expected.signals) {
        assert_close(&[signals.log_probability, signals.margin, signals.entropy], expected, "signals");
    }
}

#[test]
fn the_policy_decides_on_the_score_and_stops_a_hopeless_answer() {
    let (engine, expected) = (engine(), Expected::read());
    let average = expected.signals.iter().map(|signals| signals[0]).sum::<f32>() / expected.signals.len() as f32;
    let decide = |threshold: f32| {
        let policy = Policy::new(Rule::ChowAverage, Threshold::new(threshold).unwrap());
        engine.generate(&request(&expected), Some(&policy), &mut keep_going).unwrap()
    };
    let kept = decide(average - 1e-3);
    assert_eq!((kept.finish, kept.decision.unwrap().verdict), (Finish::Length, Verdict::Keep));
    assert!((kept.decision.unwrap().score.unwrap().value() - average).abs() <= TOLERANCE);
    let deferred = decide(average + 1e-3);
    assert!(matches!(deferred.decision.unwrap().verdict, Verdict::Defer(_)));
    // Half of the first token's log-probability: even with certainty from there on, the answer cannot reach it.
    let hopeless = decide(expected.signals[0][0] / expected.greedy.len() as f32 / 2.0);
    assert_eq!((hopeless.finish, hopeless.token_ids.len()), (Finish::EarlyDeferral, 1));
    assert_eq!(hopeless.decision.unwrap().verdict, Verdict::Defer(Reason::EarlyLowConfidence));
}

#[test]
fn a_task_has_its_own_threshold() {
    let (engine, expected) = (engine(), Expected::read());
    let policy = Policy::new(Rule::ChowAverage, Threshold::KEEP_ALL).with_task("alarm", Threshold::DEFER_ALL).unwrap();
    let finish = |request| engine.generate(&request, Some(&policy), &mut keep_going).unwrap().finish;
    assert_eq!(finish(request(&expected)), Finish::Length);
    assert_eq!(finish(request(&expected).task("weather")), Finish::Length);
    assert_eq!(finish(request(&expected).task("alarm")), Finish::EarlyDeferral);
}

#[test]
fn a_stop_token_ends_the_answer_and_is_not_part_of_it() {
    let expected = Expected::read();
    let stop = expected.greedy[10];
    let at = expected.greedy.iter().position(|id| *id == stop).unwrap();
    let folder = toy();
    edit_manifest(folder.path(), |manifest| manifest["prompt"]["stop_tokens"] = [stop].into());
    let generation = engine_of(folder.path()).generate(&request(&expected), None, &mut keep_going).unwrap();
    assert_eq!(generation.finish, Finish::Stop);
    assert_eq!(generation.token_ids, expected.greedy[..at]);
    assert_eq!(generation.signals.len(), at + 1, "ending was the model's choice too");
}

#[test]
fn the_caller_can_break_off() {
    let expected = Expected::read();
    let mut left = 3;
    let generation = engine()
        .generate(&request(&expected), None, &mut |_| {
            left -= 1;
            if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
    assert_eq!((generation.finish, generation.token_ids.len()), (Finish::Caller, 3));
}

#[test]
fn cancel_and_deadline_stop_within_a_step() {
    let (engine, expected) = (engine(), Expected::read());
    let cancel = Cancel::default();
    let mut tokens = 0;
    let error = engine
        .generate(&request(&expected).cancel(cancel.clone()), None, &mut |_| {
            tokens += 1;
            cancel.cancel();
            ControlFlow::Continue(())
        })
        .unwrap_err();
    assert_eq!((error.kind(), tokens), (ErrorKind::Cancelled, 1));
    let late = request(&expected).deadline(Deadline::after(Duration::ZERO));
    assert_eq!(engine.generate(&late, None, &mut keep_going).unwrap_err().kind(), ErrorKind::Deadline);
}

#[test]
fn what_does_not_fit_or_makes_no_sense_is_refused() {
    let (engine, expected) = (engine(), Expected::read());
    let context = engine.manifest().model.context_length;
    let fits = request(&expected).max_tokens(context - expected.prompt.len());
    assert_eq!(engine.generate(&fits, None, &mut |_| ControlFlow::Break(())).unwrap().finish, Finish::Caller);
    for most in [context - expected.prompt.len() + 1, usize::MAX] {
        let error = engine.generate(&request(&expected).max_tokens(most), None, &mut keep_going).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ContextOverflow);
    }
    let error = engine.generate(&request(&expected).max_tokens(0), None, &mut keep_going).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    assert_eq!(engine.logits(&[]).unwrap_err().kind(), ErrorKind::InvalidRequest);
    assert_eq!(engine.logits(&[320]).unwrap_err().kind(), ErrorKind::InvalidRequest);
    assert_eq!(engine.logits(&vec![1; context + 1]).unwrap_err().kind(), ErrorKind::ContextOverflow);
    assert_eq!(engine.decode_logits(&vec![1; context + 1]).unwrap_err().kind(), ErrorKind::ContextOverflow);
}

#[test]
fn requests_take_turns_and_a_waiting_one_can_be_stopped() {
    let (engine, expected) = (engine(), Expected::read());
    let (started, has_started) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| {
            let mut wait_once = Some((started, released));
            engine.generate(&request(&expected), None, &mut |_| {
                if let Some((started, released)) = wait_once.take() {
                    started.send(()).unwrap();
                    released.recv().unwrap();
                }
                ControlFlow::Continue(())
            })
        });
        has_started.recv().unwrap();
        // The engine is taken until `release`: both of these can only end by their own limits.
        let hurried = request(&expected).deadline(Deadline::after(Duration::from_millis(30)));
        assert_eq!(engine.generate(&hurried, None, &mut keep_going).unwrap_err().kind(), ErrorKind::Deadline);
        let cancel = Cancel::default();
        let cancelled = request(&expected).cancel(cancel.clone());
        let second = scope.spawn(move || engine.generate(&cancelled, None, &mut keep_going));
        cancel.cancel();
        assert_eq!(second.join().unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
        let third = scope.spawn(|| engine.generate(&request(&expected), None, &mut keep_going));
        release.send(()).unwrap();
        assert_eq!(first.join().unwrap().unwrap().token_ids, expected.greedy);
        assert_eq!(third.join().unwrap().unwrap().token_ids, expected.greedy);
    });
}

#[test]
fn a_callback_that_panics_does_not_take_the_engine_with_it() {
    let (engine, expected) = (engine(), Expected::read());
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        engine.generate(&request(&expected), None, &mut |_| panic!("the caller's own mistake"))
    }));
    assert!(panicked.is_err());
    let generation = engine.generate(&request(&expected), None, &mut keep_going).unwrap();
    assert_eq!(generation.token_ids, expected.greedy);
}

#[test]
fn the_template_may_refuse_a_conversation_and_must_not_use_unknown_tokens() {
    let cases = [
        ("{{ raise_exception('no system role') }}", "no system role"),
        ("{{ bos_token }}{{ messages[0].content }}", "undefined"),
        ("{% for i in range(9000) %}{% for j in range(9000) %}x{% endfor %}{% endfor %}", "fuel"),
    ];
    for (template, why) in cases {
        let folder = toy();
        edit_manifest(folder.path(), |manifest| manifest["prompt"]["chat_template"] = template.into());
        let error = engine_of(folder.path()).encode_prompt(&[Message::user("hello")]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest);
        assert!(error.to_string().contains(why), "{error}");
    }
}

/// A change to the manifest.
type Edit = fn(&mut serde_json::Value);

#[test]
fn a_model_that_is_not_what_the_manifest_says_never_serves() {
    let cases: [(&str, ErrorKind, Edit); 9] = [
        ("layers 3", ErrorKind::Bundle, |manifest| manifest["model"]["layers"] = 3.into()),
        ("layers 1", ErrorKind::Bundle, |manifest| manifest["model"]["layers"] = 1.into()),
        ("head_size", ErrorKind::Bundle, |manifest| manifest["model"]["head_size"] = 8.into()),
        ("key_value_heads", ErrorKind::Bundle, |manifest| manifest["model"]["key_value_heads"] = 4.into()),
        ("larger vocabulary", ErrorKind::Bundle, |manifest| manifest["model"]["vocabulary_size"] = 321.into()),
        ("smaller vocabulary", ErrorKind::Bundle, |manifest| manifest["model"]["vocabulary_size"] = 319.into()),
        ("template", ErrorKind::Bundle, |manifest| manifest["prompt"]["chat_template"] = "{% if".into()),
        ("canary logits", ErrorKind::Inference, |manifest| {
            let logit = manifest["canary"]["logits"][3].as_f64().unwrap();
            manifest["canary"]["logits"][3] = (logit + 1e-3).into();
        }),
        ("canary ids", ErrorKind::Inference, |manifest| {
            let last = manifest["canary"]["continuation"].as_array_mut().unwrap().last_mut().unwrap();
            *last = ((last.as_u64().unwrap() + 1) % 320).into();
        }),
    ];
    for (name, kind, edit) in cases {
        let folder = toy();
        edit_manifest(folder.path(), edit);
        let bundle = Bundle::open(folder.path()).unwrap();
        let error = Engine::load(
            &bundle,
            DeviceOptions { library: Some(library()), threads: Some(1), ..DeviceOptions::default() },
        )
        .unwrap_err();
        assert_eq!(error.kind(), kind, "{name}: {error}");
    }
}

#[test]
fn files_that_are_intact_but_not_what_they_should_be_are_errors() {
    for (file, kind) in [("model.onnx", ErrorKind::Inference), ("tokenizer.json", ErrorKind::Bundle)] {
        for content in [&b""[..], b"{}", b"\x08\x0a garbage \xff\xff\xff\xff"] {
            let folder = toy();
            std::fs::write(folder.path().join(file), content).unwrap();
            common::relist(folder.path());
            let bundle = Bundle::open(folder.path()).unwrap();
            let options = DeviceOptions { library: Some(library()), threads: Some(1), ..DeviceOptions::default() };
            let error = Engine::load(&bundle, options).unwrap_err();
            assert_eq!(error.kind(), kind, "{file}: {error}");
        }
    }
}

#[test]
fn the_report_says_what_runs() {
    let report = engine().report();
    assert_eq!(report.library, library().path());
    assert_eq!(report.provider, Provider::Cpu);
    assert_eq!(report.nodes, None, "not asked for");
    assert_eq!((report.attempts.len(), &report.attempts[0].outcome), (1, &Outcome::InUse));
    assert!(report.library_build.contains("ORT Build Info"), "{}", report.library_build);
    assert!(report.canary_error <= TOLERANCE);
    assert!(!report.warm_up.is_zero() && !report.load.is_zero());
    assert!(report.model_bytes > 400_000);
    if cfg!(target_os = "linux") {
        assert!(report.peak_rss.unwrap() > 10 << 20, "{report:?}");
    }
}

#[test]
fn a_provider_that_is_not_there_is_reported_and_only_fatal_if_required() {
    let bundle = Bundle::open(common::fixtures().join("toy")).unwrap();
    let load = |policy| {
        let options = DeviceOptions {
            threads: Some(1),
            library: Some(library()),
            providers: vec![Provider::OpenVino],
            plugins: vec![(Provider::OpenVino, "/nowhere/libplugin.so".into())],
            policy,
            count_nodes: true,
            ..DeviceOptions::default()
        };
        Engine::load(&bundle, options)
    };
    for policy in [EpPolicy::Prefer, EpPolicy::Auto] {
        let report = load(policy).unwrap().report();
        assert_eq!(report.provider, Provider::Cpu);
        let dropped = report.attempts.iter().find(|attempt| attempt.provider == Provider::OpenVino).unwrap();
        assert!(matches!(&dropped.outcome, Outcome::Dropped(why) if !why.is_empty()), "{dropped:?}");
        assert_eq!(report.canary.is_some(), policy == EpPolicy::Auto);
        // The toy's graph has 69 nodes before they are fused.
        let nodes = report.nodes.unwrap();
        assert!((10..69).contains(&nodes["CPUExecutionProvider"]), "{nodes:?}");
        assert_eq!(nodes.len(), 1);
    }
    assert_eq!(load(EpPolicy::Require).unwrap_err().kind(), ErrorKind::Provider);
}

#[test]
fn one_process_has_one_library() {
    library().initialise().unwrap();
    let copy = tempfile::NamedTempFile::new().unwrap();
    let error = margay::device::library::Library::at(copy.path()).unwrap().initialise().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Library);
    assert!(error.to_string().contains("only one"), "{error}");
    assert_eq!(margay::device::library::Library::loaded(), Some(library()));
}
