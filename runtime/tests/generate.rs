//! Options of a generation: sampling, stop strings, raw prompts, a context that is full, what is known of earlier prompts.
#![expect(clippy::unwrap_used, reason = "a failed preparation fails the test")]

mod common;

use std::ops::ControlFlow;

use common::{Expected, edit_manifest, engine, engine_of, fixtures, library, toy};
use margay::{
    Bundle, DeviceOptions, Engine, ErrorKind, Finish, GenerateOptions, Generation, Overflow, Request, Sampling,
};

fn request(expected: &Expected, options: GenerateOptions) -> Request {
    Request::messages(expected.messages.clone()).max_tokens(expected.greedy.len()).options(options)
}

/// The generation, and what was streamed of it.
fn run(engine: &Engine, request: &Request) -> (Generation, String) {
    let mut streamed = String::new();
    let generation = engine
        .generate(request, None, &mut |token| {
            streamed.push_str(token.text);
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(generation.text, streamed, "what is returned is what was streamed");
    (generation, streamed)
}

fn sampling(sampling: Sampling) -> GenerateOptions {
    GenerateOptions { sampling, ..GenerateOptions::default() }
}

#[test]
fn a_seed_repeats_an_answer_and_every_answer_names_its_own() {
    let expected = Expected::read();
    let draw = |seed| {
        let options = sampling(Sampling { temperature: 1.2, top_p: Some(0.95), seed, ..Sampling::default() });
        run(engine(), &request(&expected, options)).0
    };
    let first = draw(Some(5));
    assert_eq!((first.seed, &first.token_ids), (Some(5), &draw(Some(5)).token_ids));
    assert_ne!(first.token_ids, draw(Some(6)).token_ids);
    let fresh = draw(None);
    assert_eq!(draw(fresh.seed).token_ids, fresh.token_ids);
    assert_ne!(draw(None).seed, fresh.seed);
    // Signals are of the model's own distribution: a token that was drawn is seldom the likeliest.
    assert!(first.signals.iter().any(|signals| signals.log_probability < -1.5), "{:?}", first.signals);
}

#[test]
fn narrow_sampling_is_greedy() {
    let expected = Expected::read();
    for narrow in
        [Sampling { top_k: Some(1), ..Sampling::default() }, Sampling { min_p: Some(1.0), ..Sampling::default() }]
    {
        let options = sampling(Sampling { temperature: 1.0, ..narrow });
        assert_eq!(run(engine(), &request(&expected, options)).0.token_ids, expected.greedy);
    }
    let greedy = run(engine(), &request(&expected, GenerateOptions::default())).0;
    assert_eq!((greedy.token_ids, greedy.seed), (expected.greedy, None));
}

#[test]
fn a_penalty_ends_repetition() {
    let expected = Expected::read();
    let longest_run = |ids: &[u32]| ids.chunk_by(|a, b| a == b).map(<[u32]>::len).max().unwrap();
    assert!(longest_run(&expected.greedy) >= 5);
    let options = sampling(Sampling { repetition_penalty: 2.0, ..Sampling::default() });
    let penalised = run(engine(), &request(&expected, options)).0;
    assert!(longest_run(&penalised.token_ids) <= 2, "{:?}", penalised.token_ids);
}

#[test]
fn a_stop_string_ends_the_answer_across_tokens_and_is_not_shown() {
    let expected = Expected::read();
    let stop = |stop: &[&str]| GenerateOptions {
        stop: stop.iter().map(|stop| (*stop).to_owned()).collect(),
        ..GenerateOptions::default()
    };
    // Tokens are "sic" here: "csi" begins in one and ends in the next.
    let (generation, _) = run(engine(), &request(&expected, stop(&["nowhere", "csi"])));
    assert_eq!(generation.finish, Finish::StopString { index: 1 });
    assert_eq!(generation.text, expected.greedy_text[..expected.greedy_text.find("csi").unwrap()]);
    let written = generation.token_ids.len();
    assert_eq!(generation.token_ids, expected.greedy[..written]);
    assert_eq!(generation.signals.len(), written);
    // What was held back for a stop string that did not come is part of the answer.
    let (generation, _) = run(engine(), &request(&expected, stop(&[".and more", "d�.!"])));
    assert_eq!((generation.finish, generation.text), (Finish::Length, expected.greedy_text.clone()));
    // A character's bytes come in several tokens: a stop string that ends with it is found when it is whole.
    let unfinished = "�X";
    assert!(expected.greedy_text.starts_with(unfinished));
    let (generation, _) = run(engine(), &request(&expected, stop(&["X�"])));
    assert_eq!(generation.text, "�");
}

#[test]
fn text_that_was_held_back_comes_with_the_stop_token() {
    let expected = Expected::read();
    let last = *expected.greedy.last().unwrap();
    let at = expected.greedy.iter().position(|id| *id == last).unwrap();
    let folder = toy();
    edit_manifest(folder.path(), |manifest| manifest["prompt"]["stop_tokens"] = [last].into());
    let engine = engine_of(folder.path());
    let whole = run(&engine, &request(&expected, GenerateOptions::default())).0;
    let tail = whole.text.chars().next_back().unwrap();
    let options = GenerateOptions { stop: vec![format!("{tail}never")], ..GenerateOptions::default() };
    let mut stop_texts = Vec::new();
    let held = engine
        .generate(&request(&expected, options.clone()), None, &mut |token| {
            if token.is_stop {
                stop_texts.push(token.text.to_owned());
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!((held.finish, held.text, held.token_ids.len()), (Finish::Stop, whole.text, at));
    assert_eq!(stop_texts, [tail.to_string()]);
    // Told to go on past stop tokens, the model does.
    let on = GenerateOptions { ignore_stop_tokens: true, ..GenerateOptions::default() };
    assert_eq!(run(&engine, &request(&expected, on)).0.token_ids, expected.greedy);
}

#[test]
fn a_raw_prompt_is_taken_as_it_is() {
    let expected = Expected::read();
    let text: serde_json::Value = serde_json::from_slice(&std::fs::read(fixtures().join("toy.json")).unwrap()).unwrap();
    let raw = GenerateOptions { raw_prompt: true, ..GenerateOptions::default() };
    let request = Request::user(text["text"].as_str().unwrap()).max_tokens(expected.greedy.len()).options(raw);
    assert_eq!(run(engine(), &request).0.token_ids, expected.greedy);
}

#[test]
fn a_full_context_is_an_error_or_slides_and_says_so() {
    let (engine, expected) = (engine(), Expected::read());
    let context = engine.manifest().model.context_length;
    let keep = 8;
    let options =
        GenerateOptions { overflow: Overflow::Slide { keep }, ignore_stop_tokens: true, ..GenerateOptions::default() };
    let request = request(&expected, options.clone()).max_tokens(context);
    let (generation, _) = run(engine, &request);
    assert_eq!((generation.finish, generation.token_ids.len()), (Finish::Length, context));
    // The same by hand: when the sequence is as long as the context, the oldest half behind `keep` goes.
    let mut sequence = expected.prompt.clone();
    let (mut forgotten, mut checked) = (0, 0);
    for (index, id) in generation.token_ids.iter().enumerate() {
        if index > 0 && sequence.len() > context {
            let newest = (context - keep).div_ceil(2);
            let id = sequence.pop().unwrap();
            let rest = sequence.split_off(sequence.len() - newest);
            forgotten += sequence.len() - keep;
            sequence.truncate(keep);
            sequence.extend(rest);
            sequence.push(id);
            checked = 4;
        }
        if checked > 0 {
            checked -= 1;
            let logits = engine.logits(&sequence).unwrap();
            let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]).then(b.cmp(a))).unwrap();
            assert_eq!(*id, best as u32, "token {index}");
        }
        sequence.push(*id);
    }
    assert!(forgotten > 0);
    assert_eq!(generation.forgotten_tokens, forgotten);

    let long = Request::user("weather ".repeat(context)).max_tokens(4);
    assert_eq!(
        engine.generate(&long, None, &mut |_| ControlFlow::Continue(())).unwrap_err().kind(),
        ErrorKind::ContextOverflow
    );
    let (generation, _) = run(engine, &long.clone().options(options));
    assert!(generation.prompt_tokens < context && generation.forgotten_tokens > 0);
    let hopeless = GenerateOptions { overflow: Overflow::Slide { keep: context - 1 }, ..GenerateOptions::default() };
    let error = engine.generate(&long.options(hopeless), None, &mut |_| ControlFlow::Continue(())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ContextOverflow);
}

#[test]
fn what_prompts_have_in_common_is_computed_once() {
    let load = |prefix_cache| {
        let options =
            DeviceOptions { threads: Some(1), library: Some(library()), prefix_cache, ..DeviceOptions::default() };
        Engine::load(&Bundle::open(fixtures().join("toy")).unwrap(), options).unwrap()
    };
    let prompts: Vec<Request> = ["alpha", "beta"]
        .into_iter()
        .flat_map(|system| {
            let system = format!("{system} {}", "play some music please ".repeat(8));
            ["wake me up", "hello"].map(|user| {
                let messages = vec![margay::Message::system(&system), margay::Message::user(user)];
                Request::messages(messages).max_tokens(6)
            })
        })
        .collect();
    let order = [0, 2, 1, 3, 0, 2, 2];
    let all = |engine: &Engine| order.map(|index| run(engine, &prompts[index]).0);

    let fresh = all(&load(None));
    assert!(fresh.iter().all(|generation| generation.cached_tokens == 0));
    let cached = all(&load(Some(1 << 20)));
    for (fresh, cached) in fresh.iter().zip(&cached) {
        assert_eq!(fresh.token_ids, cached.token_ids, "what is known changes nothing");
        for (fresh, cached) in fresh.signals.iter().zip(&cached.signals) {
            assert!((fresh.log_probability - cached.log_probability).abs() < 1e-4);
        }
    }
    let known: Vec<usize> = cached.iter().map(|generation| generation.cached_tokens).collect();
    let lengths: Vec<usize> = cached.iter().map(|generation| generation.prompt_tokens).collect();
    // Both systems begin with the same mark only, and are seen for the first time.
    assert!(known[..4].iter().all(|known| *known < 32), "{known:?}");
    // The third and fourth show that their beginnings are shared; from then on these are set aside and taken up again.
    for (index, known) in known.iter().enumerate().skip(4) {
        assert!(*known >= 32 && *known < lengths[index], "{known} of {lengths:?}");
    }
    assert_eq!(known[6], lengths[6] - 1, "the very same prompt again: only its last token is computed");

    // Without room for them only the live sequence's beginning is known.
    let live: Vec<usize> = all(&load(Some(0))).iter().map(|generation| generation.cached_tokens).collect();
    assert!(live[..6].iter().all(|known| *known < 32), "{live:?}");
    assert_eq!(live[6], lengths[6] - 1);
}

#[test]
fn a_memory_cap_holds() {
    let bundle = Bundle::open(fixtures().join("toy")).unwrap();
    let load = |memory_cap| {
        let options = DeviceOptions {
            threads: Some(1),
            library: Some(library()),
            memory_cap: Some(memory_cap),
            prefix_cache: None,
            ..DeviceOptions::default()
        };
        Engine::load(&bundle, options)
    };
    let model = engine().report().model_bytes;
    assert_eq!(load(model - 1).unwrap_err().kind(), ErrorKind::Memory);
    // 2 layers, keys and values, 2 heads of 16 numbers of 4 bytes: 512 bytes a token.
    let engine = load(model + 300 * 512).unwrap();
    let ask = |tokens| engine.generate(&Request::user("hi").max_tokens(tokens), None, &mut |_| ControlFlow::Break(()));
    assert!(ask(200).is_ok());
    assert_eq!(ask(400).unwrap_err().kind(), ErrorKind::Memory);
    assert!(ask(200).is_ok(), "a request that was too large harms no other");
}
