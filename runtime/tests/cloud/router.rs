//! A router before the device: what it sends on is never begun here, unless nobody else answers.

use margay::bundle::{CalibratedPolicy, CalibratedRouter};
use margay::policy::{Policy, PromptFeatures, Reason, Router, Rule, Threshold};
use margay::{Answer, Cascade, ErrorKind, Message, OnCloudFailure, Origin, Request, Stream, StreamEvent, Tokens};

use crate::cascade::{Cloud, ENGINE, EXPECTED, request, whole};

const BITS: u32 = 10;

/// A router that sends on what says "large", with a policy that keeps all the rest.
fn policy() -> CalibratedPolicy {
    let mut weights = vec![0.0; 1 << BITS];
    for (feature, _) in PromptFeatures::of("large", BITS).iter() {
        weights[feature as usize] = -4.0;
    }
    let policy = Policy::new(Rule::ChowAverage, Threshold::KEEP_ALL);
    let router = CalibratedRouter::new(Threshold::new(0.0).unwrap(), 0.5, weights, 0.1, 100).unwrap();
    CalibratedPolicy { router: Some(router), ..CalibratedPolicy::by_hand(*ENGINE.model_digest(), policy) }
}

fn cascade(cloud: Result<&'static str, ErrorKind>, then: OnCloudFailure) -> Cascade {
    let builder = Cascade::builder().engine(ENGINE.clone()).policy(policy()).cloud(Cloud::new(cloud));
    builder.on_cloud_failure(then).build().unwrap()
}

/// The expected conversation, with a last question that the router sends on.
fn large() -> Request {
    let mut messages = vec![Message::user("small talk"), Message::assistant("well")];
    messages.push(Message::user("a large question"));
    Request::messages(messages).max_tokens(EXPECTED.greedy.len())
}

fn facts(answer: &Answer) -> (Origin, Option<Reason>, Rule) {
    (answer.origin, answer.reason, answer.rule)
}

#[tokio::test]
async fn what_is_sent_on_is_never_begun() {
    let cascade = cascade(Ok("from afar"), OnCloudFailure::Fail);
    let answer = cascade.answer(large()).await.unwrap();
    assert_eq!(facts(&answer), (Origin::Cloud, Some(Reason::Routed), Rule::Router));
    assert_eq!((answer.text.as_str(), answer.rule.to_string().as_str()), ("from afar", "router"));
    assert_eq!((answer.usage.local, answer.saved_tokens), (Tokens::default(), EXPECTED.greedy.len() as u64));
    // (0.5 - 4 / sqrt(5)): three words and two pairs, of which one is known.
    assert_eq!(answer.score.unwrap().value(), 0.5 - 4.0 / 5.0_f32.sqrt());
    assert_eq!(answer.threshold, Threshold::new(0.0).unwrap());

    // The last question counts, and what stays is judged by the rule.
    let kept = cascade.answer(request()).await.unwrap();
    assert_eq!(facts(&kept), (Origin::Local, None, Rule::ChowAverage));
    assert_eq!((kept.text.as_str(), kept.saved_tokens), (EXPECTED.greedy_text.as_str(), 0));
    assert_eq!(kept.usage.local, whole());
}

#[tokio::test]
async fn a_stream_of_it_has_no_token_of_the_device() {
    let cascade = cascade(Ok("from afar"), OnCloudFailure::Fail);
    let mut events = cascade.stream(large(), Stream::Optimistic);
    let (mut text, mut end) = (String::new(), None);
    while let Some(event) = events.next().await {
        match event.unwrap() {
            StreamEvent::Token { text: piece, origin } => {
                assert_eq!(origin, Origin::Cloud);
                text.push_str(&piece);
            }
            StreamEvent::Superseded { reason } => assert_eq!((reason, text.as_str()), (Some(Reason::Routed), "")),
            StreamEvent::Done(answer) => end = Some(answer),
            _ => {}
        }
    }
    let answer = end.unwrap();
    assert_eq!((facts(&answer), answer.text), ((Origin::Cloud, Some(Reason::Routed), Rule::Router), text));
}

#[tokio::test]
async fn without_the_cloud_the_device_begins_after_all() {
    let fails = |then| cascade(Err(ErrorKind::Server), then);
    let answer = fails(OnCloudFailure::FallBackToLocal).answer(large()).await.unwrap();
    assert_eq!(facts(&answer), (Origin::Local, Some(Reason::Routed), Rule::Router));
    assert!(!answer.text.is_empty() && answer.usage.local.output > 0 && answer.saved_tokens == 0, "{answer:?}");
    let silent = fails(OnCloudFailure::Abstain).answer(large()).await.unwrap();
    assert_eq!((silent.origin, silent.usage.local), (Origin::Abstained, Tokens::default()));

    // What must not leave is answered here, and was not trusted.
    let local = fails(OnCloudFailure::FallBackToLocal).answer_local(large().local_only()).await.unwrap();
    assert_eq!(facts(&local), (Origin::Local, Some(Reason::LocalOnly), Rule::Router));
    assert!(!local.text.is_empty());
    // The device's answer at once, and a better one later.
    let (now, later) = cascade(Ok("from afar"), OnCloudFailure::Fail).answer_now(large()).await.unwrap();
    assert_eq!(facts(&now), (Origin::Local, Some(Reason::Routed), Rule::Router));
    assert_eq!((now.text, later.unwrap().await.unwrap().text), (local.text, "from afar".to_owned()));
}

#[test]
fn a_router_survives_its_file_and_a_broken_one_is_refused() {
    let json = serde_json::to_value(policy()).unwrap();
    let read = |json: &serde_json::Value| CalibratedPolicy::parse(json.to_string().as_bytes(), ENGINE.model_digest());
    assert_eq!(read(&json).unwrap(), policy());
    for (field, value) in [
        ("weights", serde_json::json!([0.0, 1.0, 2.0])),
        ("weights", serde_json::json!([])),
        ("intercept", serde_json::json!(1e39)),
        ("deferral_rate", serde_json::json!(1.5)),
        ("sample_size", serde_json::json!(0)),
        ("threshold", serde_json::json!("low")),
        ("bits", serde_json::json!(10)),
    ] {
        let mut broken = json.clone();
        broken["router"][field] = value;
        let error = read(&broken).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Bundle, "{field}: {error}");
        assert!(error.to_string().contains("policy.json"), "{error}");
    }
    // As the crate of policies scores it.
    let weights: Vec<f32> = serde_json::from_value(json["router"]["weights"].clone()).unwrap();
    let score = Router::new(0.5, &weights).unwrap().score("a large question").unwrap();
    assert_eq!(policy().router.unwrap().sends_away("a large question").unwrap().score, Some(score));
}
