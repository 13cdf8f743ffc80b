//! The cascade: a toy model on ONNX Runtime before a cloud that answers, fails, stalls or dies.

use std::future::Future;
use std::num::NonZeroU32;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, mpsc};
use std::task::{Context, Waker};
use std::time::Duration;

use margay::bundle::CalibratedPolicy;
use margay::cloud::{BoxFuture, CloudAnswer, CloudClient, LargeModel, Retry, Roots};
use margay::policy::{Policy, Reason, Rule, Threshold};
use margay::testing::{FaultyServer as Server, ManualClock, Reply};
use margay::{
    Answer, Cancel, Cascade, CascadeBuilder, Deadline, Engine, Error, ErrorKind, OnCloudFailure, Origin, Request,
    Result, Stream, Tokens,
};
use tokio::sync::Notify;

use crate::common::{Expected, engine_of, fixtures};
use crate::trace::Seen;

pub(crate) static ENGINE: LazyLock<Arc<Engine>> = LazyLock::new(|| Arc::new(engine_of(&fixtures().join("toy"))));
pub(crate) static EXPECTED: LazyLock<Expected> = LazyLock::new(Expected::read);

/// A cloud that does the same every time, and counts.
pub(crate) struct Cloud {
    outcome: Result<&'static str, ErrorKind>,
    asked: AtomicUsize,
}

impl Cloud {
    pub(crate) fn new(outcome: Result<&'static str, ErrorKind>) -> Arc<Self> {
        Arc::new(Self { outcome, asked: AtomicUsize::new(0) })
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

impl LargeModel for Cloud {
    fn answer<'a>(&'a self, _: &'a Request) -> BoxFuture<'a, Result<CloudAnswer>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let mut answer = CloudAnswer::new(self.outcome.unwrap_or_default());
        answer.usage = Some(Tokens { input: 3, output: 2 });
        answer.attempts = 2;
        let outcome = self.outcome.map(|_| answer).map_err(|kind| Error::new(kind, "failed on purpose"));
        Box::pin(async { outcome })
    }
}

/// A cloud that says when it is asked and never answers.
#[derive(Default)]
struct Stalled(Notify);

impl LargeModel for Stalled {
    fn answer<'a>(&'a self, _: &'a Request) -> BoxFuture<'a, Result<CloudAnswer>> {
        self.0.notify_one();
        Box::pin(std::future::pending())
    }
}

/// A policy for the toy that holds the mean log-probability against `threshold`.
fn policy(threshold: Threshold) -> CalibratedPolicy {
    CalibratedPolicy::by_hand(*ENGINE.model_digest(), Policy::new(Rule::ChowAverage, threshold))
}

pub(crate) fn builder(threshold: Threshold, cloud: impl LargeModel + 'static) -> CascadeBuilder {
    Cascade::builder().engine(Arc::clone(&ENGINE)).policy(policy(threshold)).cloud(cloud)
}

fn cascade(threshold: Threshold, cloud: impl LargeModel + 'static) -> Cascade {
    builder(threshold, cloud).build().unwrap()
}

pub(crate) fn request() -> Request {
    Request::messages(EXPECTED.messages.clone()).max_tokens(EXPECTED.greedy.len())
}

pub(crate) fn whole() -> Tokens {
    Tokens { input: EXPECTED.prompt.len() as u64, output: EXPECTED.greedy.len() as u64 }
}

#[tokio::test]
async fn a_sure_device_answers_alone() {
    let cloud = Cloud::new(Ok("from afar"));
    let answer = cascade(Threshold::KEEP_ALL, Arc::clone(&cloud)).answer(request()).await.unwrap();
    assert_eq!((answer.text.as_str(), answer.origin), (EXPECTED.greedy_text.as_str(), Origin::Local));
    assert_eq!((answer.reason, answer.attempts, answer.saved_tokens), (None, 0, 0));
    assert_eq!((answer.usage.local, answer.usage.cloud), (whole(), None));
    assert_eq!(answer.model_digest.to_string(), EXPECTED.model_digest);
    assert!(answer.timings.local <= answer.timings.total && answer.timings.cloud.is_none());
    assert_eq!(cloud.asked(), 0);
}

#[tokio::test]
async fn an_unsure_device_stops_early_and_the_cloud_answers() {
    let cloud = Cloud::new(Ok("from afar"));
    let answer = cascade(Threshold::DEFER_ALL, Arc::clone(&cloud)).answer(request()).await.unwrap();
    assert_eq!((answer.text.as_str(), answer.origin, answer.attempts), ("from afar", Origin::Cloud, 2));
    assert!(matches!(answer.reason, Some(Reason::LowConfidence | Reason::EarlyLowConfidence)), "{answer:?}");
    assert_eq!(answer.usage.cloud, Some(Tokens { input: 3, output: 2 }));
    // Nothing reaches an infinite threshold: one token is enough to know.
    assert_eq!((answer.usage.local.output, answer.saved_tokens), (1, whole().output - 1));
    assert!(answer.timings.cloud.is_some());
    assert_eq!(cloud.asked(), 1);
}

#[tokio::test]
async fn the_threshold_is_met_by_the_very_score_and_missed_by_the_next_number_above() {
    let kept = cascade(Threshold::KEEP_ALL, Cloud::new(Ok("from afar"))).answer(request()).await.unwrap();
    let score = kept.score.unwrap();
    for (threshold, origin) in [(score.value(), Origin::Local), (score.value().next_up(), Origin::Cloud)] {
        let cascade = cascade(Threshold::new(threshold).unwrap(), Cloud::new(Ok("from afar")));
        assert_eq!(cascade.answer(request()).await.unwrap().origin, origin, "{threshold}");
    }
}

#[tokio::test]
async fn a_failed_cloud_ends_as_configured() {
    for (kind, then) in
        [ErrorKind::Connect, ErrorKind::Tls, ErrorKind::Server, ErrorKind::Malformed, ErrorKind::Deadline]
            .into_iter()
            .flat_map(|kind| {
                [OnCloudFailure::FallBackToLocal, OnCloudFailure::Abstain, OnCloudFailure::Fail]
                    .map(|then| (kind, then))
            })
    {
        let cascade = builder(Threshold::DEFER_ALL, Cloud::new(Err(kind))).on_cloud_failure(then).build().unwrap();
        let (text, origin) = match (cascade.answer(request()).await, then) {
            (Err(error), OnCloudFailure::Fail) => {
                assert_eq!(error.kind(), kind);
                continue;
            }
            (Ok(answer), _) => {
                assert_eq!(answer.cloud_error.as_ref().map(Error::kind), Some(kind));
                assert!(answer.reason.is_some() && answer.attempts == 0 && answer.timings.cloud.is_some());
                (answer.text, answer.origin)
            }
            (Err(error), _) => panic!("{kind:?}, {then:?}: {error:?}"),
        };
        match then {
            // Whole, though the policy had stopped it after one token.
            OnCloudFailure::FallBackToLocal => {
                assert_eq!((text, origin), (EXPECTED.greedy_text.clone(), Origin::Local))
            }
            _ => assert_eq!((text.as_str(), origin), ("", Origin::Abstained)),
        }
    }
}

#[tokio::test]
async fn a_repeated_generation_is_counted() {
    let answer = cascade(Threshold::DEFER_ALL, Cloud::new(Err(ErrorKind::Connect))).answer(request()).await.unwrap();
    let once = Tokens { input: whole().input, output: 1 };
    assert_eq!(answer.usage.local, Tokens { input: once.input + whole().input, output: once.output + whole().output });
    assert_eq!(answer.saved_tokens, 0);
}

#[tokio::test]
async fn a_private_request_stays_sure_or_not() {
    let cloud = Cloud::new(Ok("from afar"));
    let local = |threshold, then| {
        let cascade = builder(threshold, Arc::clone(&cloud)).on_cloud_failure(then).build().unwrap();
        async move { cascade.answer_local(request().local_only()).await.unwrap() }
    };
    let facts = |answer: Answer| (answer.text, answer.origin, answer.reason);
    let text = EXPECTED.greedy_text.clone();
    let sure = local(Threshold::KEEP_ALL, OnCloudFailure::Abstain).await;
    assert_eq!(facts(sure), (text.clone(), Origin::Local, None));
    let unsure = local(Threshold::DEFER_ALL, OnCloudFailure::FallBackToLocal).await;
    assert_eq!(unsure.usage.local, whole());
    assert_eq!(facts(unsure), (text, Origin::Local, Some(Reason::LocalOnly)));
    let silent = local(Threshold::DEFER_ALL, OnCloudFailure::Fail).await;
    assert_eq!(facts(silent), (String::new(), Origin::Abstained, Some(Reason::LocalOnly)));
    assert_eq!(cloud.asked(), 0);
}

#[tokio::test]
async fn both_ways_give_the_same_score() {
    let cascade = cascade(Threshold::KEEP_ALL, Cloud::new(Ok("from afar")));
    let open = cascade.answer(request()).await.unwrap();
    let private = cascade.answer_local(request().local_only()).await.unwrap();
    assert_eq!(open.score.map(|score| score.value().to_bits()), private.score.map(|score| score.value().to_bits()));
}

#[tokio::test]
async fn a_cloud_that_keeps_failing_is_left_alone_for_a_while() {
    let cloud = Cloud::new(Err(ErrorKind::Server));
    let clock = Arc::new(ManualClock::new());
    let pause = Duration::from_secs(30);
    let cascade = builder(Threshold::DEFER_ALL, Arc::clone(&cloud))
        .breaker(2.try_into().unwrap(), pause)
        .clock(clock.clone())
        .build()
        .unwrap();
    for asked in [1, 2, 2, 2] {
        let answer = cascade.answer(request()).await.unwrap();
        assert_eq!((cloud.asked(), answer.origin), (asked, Origin::Local));
        assert_eq!(answer.reason == Some(Reason::BreakerOpen), answer.cloud_error.is_none());
    }
    assert_eq!(cascade.answer(request()).await.unwrap().reason, Some(Reason::BreakerOpen));
    clock.advance(pause);
    assert_eq!(cascade.answer(request()).await.unwrap().cloud_error.unwrap().kind(), ErrorKind::Server);
    assert_eq!(cloud.asked(), 3);
}

#[tokio::test]
async fn requests_the_cloud_refuses_do_not_open_the_breaker() {
    for kind in [ErrorKind::Rejected, ErrorKind::Unauthorized] {
        let cloud = Cloud::new(Err(kind));
        let cascade =
            builder(Threshold::DEFER_ALL, Arc::clone(&cloud)).breaker(NonZeroU32::MIN, Duration::MAX).build().unwrap();
        for asked in 1..=3 {
            cascade.answer(request()).await.unwrap();
            assert_eq!(cloud.asked(), asked);
        }
    }
}

#[tokio::test]
async fn a_query_over_budget_ends_as_configured_and_leaves_the_breaker_alone() {
    for then in [OnCloudFailure::FallBackToLocal, OnCloudFailure::Abstain, OnCloudFailure::Fail] {
        let cloud = Cloud::new(Err(ErrorKind::Budget));
        let cascade = builder(Threshold::DEFER_ALL, Arc::clone(&cloud))
            .on_cloud_failure(then)
            .breaker(NonZeroU32::MIN, Duration::MAX)
            .build()
            .unwrap();
        for asked in 1..=2 {
            match cascade.answer(request()).await {
                Err(error) => assert_eq!((error.kind(), then), (ErrorKind::Budget, OnCloudFailure::Fail)),
                Ok(answer) => {
                    let local = then == OnCloudFailure::FallBackToLocal;
                    assert_eq!(answer.origin, if local { Origin::Local } else { Origin::Abstained });
                    assert_eq!(answer.text, if local { EXPECTED.greedy_text.as_str() } else { "" });
                    assert_eq!((answer.reason, answer.cost), (Some(Reason::OverBudget), None));
                    assert_eq!(answer.cloud_error.unwrap().kind(), ErrorKind::Budget);
                }
            }
            assert_eq!(cloud.asked(), asked);
        }
    }
}

#[tokio::test]
async fn a_stalled_cloud_is_left_at_the_deadline() {
    let (cloud, clock) = (Arc::new(Stalled::default()), Arc::new(ManualClock::new()));
    let cascade = builder(Threshold::DEFER_ALL, Arc::clone(&cloud))
        .clock(clock.clone())
        .on_cloud_failure(OnCloudFailure::Fail)
        .build()
        .unwrap();
    let request = request().deadline(Deadline::after(Duration::from_secs(60)));
    let (answer, ()) = tokio::join!(cascade.answer(request), async {
        cloud.0.notified().await;
        clock.advance(Duration::from_secs(61));
    });
    assert!(answer.unwrap_err().is_deadline());
}

#[tokio::test]
async fn a_deadline_that_has_passed_and_a_cancel_end_the_query_before_it_begins() {
    let cloud = Cloud::new(Ok("from afar"));
    let cascade = cascade(Threshold::DEFER_ALL, Arc::clone(&cloud));
    let late = cascade.answer(request().deadline(Deadline::after(Duration::ZERO))).await.unwrap_err();
    assert!(late.is_deadline());
    let cancel = Cancel::default();
    cancel.cancel();
    assert!(cascade.answer(request().cancel(cancel)).await.unwrap_err().is_cancelled());
    assert_eq!(cloud.asked(), 0);
}

#[tokio::test]
async fn a_query_that_brings_no_deadline_has_that_of_the_cascade() {
    let cloud = Cloud::new(Ok("from afar"));
    let at_once = builder(Threshold::DEFER_ALL, Arc::clone(&cloud)).deadline(Duration::ZERO).build().unwrap();
    assert!(at_once.answer(request()).await.unwrap_err().is_deadline());
    assert!(at_once.answer_local(request().local_only()).await.unwrap_err().is_deadline());
    assert!(at_once.answer_now(request()).await.unwrap_err().is_deadline());
    assert!(at_once.stream(request(), Stream::Hold).next().await.unwrap().unwrap_err().is_deadline());
    assert_eq!(cloud.asked(), 0);
    let with_its_own = request().deadline(Deadline::after(Duration::from_secs(3600)));
    assert_eq!(at_once.answer(with_its_own).await.unwrap().text, "from afar");
}

#[cfg(feature = "configuration")]
#[tokio::test]
async fn a_cascade_of_a_file_has_the_deadline_of_the_file_and_no_outbox() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("margay.toml");
    let assembled = |more: &str| {
        let server = "[cloud.server]\nendpoint = \"https://example.com/v1\"\nmodel = \"large\"\n";
        std::fs::write(&path, format!("version = 1\n{server}{more}")).unwrap();
        let configuration = margay::configuration::Configuration::read(&path).unwrap();
        configuration.assemble_cascade(Arc::clone(&ENGINE), policy(Threshold::KEEP_ALL))
    };
    let at_once = assembled("[cascade]\ndeadline = \"1ns\"\n").unwrap();
    assert!(at_once.answer(request()).await.unwrap_err().is_deadline());
    let unhurried = assembled("[cascade]\ndeadline = \"never\"\n").unwrap();
    assert_eq!(unhurried.answer(request()).await.unwrap().text, EXPECTED.greedy_text);
    let refused = assembled("[outbox]\nfile = \"outbox.redb\"\n").unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Configuration);
}

#[tokio::test]
async fn a_query_cancelled_in_the_cloud_has_no_answer_at_all() {
    for then in [OnCloudFailure::FallBackToLocal, OnCloudFailure::Abstain] {
        let cloud = Arc::new(Stalled::default());
        let cascade = builder(Threshold::DEFER_ALL, Arc::clone(&cloud)).on_cloud_failure(then).build().unwrap();
        let cancel = Cancel::default();
        let (answer, ()) = tokio::join!(cascade.answer(request().cancel(cancel.clone())), async {
            cloud.0.notified().await;
            cancel.cancel();
        });
        assert!(answer.unwrap_err().is_cancelled(), "{then:?}");
    }
}

#[tokio::test]
async fn a_dropped_query_stops_the_device() {
    let cascade = cascade(Threshold::KEEP_ALL, Cloud::new(Ok("from afar")));
    let cancel = Cancel::default();
    // Somebody else has the device, so that the query is not over when it is first looked at.
    let (begun, begins) = mpsc::channel();
    let (let_go, held) = mpsc::channel::<()>();
    let other = std::thread::spawn(move || {
        ENGINE.generate(&request(), None, &mut |_| {
            begun.send(()).unwrap();
            held.recv().unwrap();
            ControlFlow::Break(())
        })
    });
    begins.recv().unwrap();
    let mut query = Box::pin(cascade.answer(request().cancel(cancel.clone())));
    assert!(query.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    assert!(!cancel.is_cancelled());
    drop(query);
    assert!(cancel.is_cancelled());
    let_go.send(()).unwrap();
    drop(other.join().unwrap());
    // A query that ends by itself leaves its handle alone.
    let cancel = Cancel::default();
    cascade.answer(request().cancel(cancel.clone())).await.unwrap();
    assert!(!cancel.is_cancelled());
}

#[tokio::test]
async fn a_server_killed_in_mid_run_leaves_marked_local_answers() {
    let mut server = Server::start([Reply::says("one"), Reply::says("two"), Reply::stall()]).await;
    let client = CloudClient::openai(server.endpoint(), "large")
        .roots(Roots::Pem(server.authority()))
        .retry(Retry::NEVER)
        .build()
        .unwrap();
    let cascade = cascade(Threshold::DEFER_ALL, client);
    for text in ["one", "two"] {
        let answer = cascade.answer(request()).await.unwrap();
        assert_eq!((answer.text.as_str(), answer.origin), (text, Origin::Cloud));
    }
    let (struck, ()) = tokio::join!(cascade.answer(request()), async {
        server.stalled().await;
        server.kill().await;
    });
    for answer in [struck, cascade.answer(request()).await] {
        let answer = answer.unwrap();
        assert_eq!((answer.text.as_str(), answer.origin), (EXPECTED.greedy_text.as_str(), Origin::Local));
        assert_eq!(answer.cloud_error.unwrap().kind(), ErrorKind::Connect);
    }
}

#[test]
fn callers_without_a_runtime_block_and_others_are_told() {
    let cascade = cascade(Threshold::DEFER_ALL, Cloud::new(Ok("from afar")));
    for _ in 0..2 {
        assert_eq!(cascade.answer_blocking(request()).unwrap().text, "from afar");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        assert_eq!(cascade.answer_blocking(request()).unwrap_err().kind(), ErrorKind::InvalidRequest);
        // Its own runtime goes down with it, here too.
        drop(cascade);
    });
}

#[test]
fn a_cascade_is_whole_and_its_policy_belongs_to_its_model() {
    let cloud = || Cloud::new(Ok("from afar"));
    let engine = || Arc::clone(&ENGINE);
    for (builder, missing) in [
        (Cascade::builder().policy(policy(Threshold::KEEP_ALL)).cloud(cloud()), "engine"),
        (Cascade::builder().engine(engine()).cloud(cloud()), "policy"),
        (Cascade::builder().engine(engine()).policy(policy(Threshold::KEEP_ALL)), "cloud"),
    ] {
        let error = builder.build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest);
        assert!(error.to_string().ends_with(missing), "{error}");
    }
    let mut foreign = policy(Threshold::KEEP_ALL);
    foreign.model_digest = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
    let error = Cascade::builder().engine(engine()).policy(foreign).cloud(cloud()).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Digest);
}

#[tokio::test]
async fn traces_tell_how_a_query_ended_but_not_what_it_was_about() {
    let seen = Seen::subscribe();
    let private = |text: &str| Request::user(text).max_tokens(4);
    let cloud = cascade(Threshold::DEFER_ALL, Cloud::new(Ok("planted answer")));
    let answer = cloud.answer(private("planted prompt")).await.unwrap();
    let broken = cascade(Threshold::DEFER_ALL, Cloud::new(Err(ErrorKind::RateLimited)));
    let local = broken.answer(private("planted prompt")).await.unwrap();
    let text = seen.text();
    for fact in [
        "origin=\"cloud\"".to_owned(),
        "origin=\"local\"".to_owned(),
        format!("score={:?}", f64::from(answer.score.unwrap().value())),
        "threshold=inf".to_owned(),
        "rule=chow-average".to_owned(),
        format!("reason=\"{}\"", answer.reason.unwrap()),
        "error=RateLimited".to_owned(),
    ] {
        assert!(text.lines().any(|line| line == fact), "{fact} is not in\n{text}");
    }
    assert!(!text.contains("planted") && !text.contains(&local.text), "{text}");
}
