//! Several large models, and answers that are kept: who is asked, when, and that no two answers are ever mixed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use margay::cloud::{BoxFuture, Cached, Clock, CloudAnswer, Failover, Hedged, LargeModel, OnText};
use margay::testing::ManualClock;
use margay::{Error, ErrorKind, Message, Privacy, Request, Result, Tokens, Tool};

/// What a scripted model does when it is asked.
#[derive(Clone)]
enum Act {
    /// Waits so long, says these pieces, and ends.
    Says(Duration, &'static [&'static str]),
    /// Says these pieces, and fails.
    Fails(&'static [&'static str], ErrorKind),
}

struct Scripted {
    acts: Mutex<VecDeque<Act>>,
    asked: Mutex<usize>,
    clock: Arc<ManualClock>,
}

impl Scripted {
    fn new(clock: &Arc<ManualClock>, acts: impl IntoIterator<Item = Act>) -> Arc<Self> {
        let acts = Mutex::new(acts.into_iter().collect());
        Arc::new(Self { acts, asked: Mutex::new(0), clock: Arc::clone(clock) })
    }

    fn asked(&self) -> usize {
        *self.asked.lock().unwrap()
    }

    async fn act(&self, on_text: Option<OnText<'_>>) -> Result<CloudAnswer> {
        *self.asked.lock().unwrap() += 1;
        let act = self.acts.lock().unwrap().pop_front().expect("asked once more than was foreseen");
        let mut on_text = on_text;
        let mut say = |pieces: &[&str]| {
            if let Some(on_text) = &mut on_text {
                pieces.iter().for_each(|piece| on_text(piece));
            }
        };
        match act {
            Act::Says(wait, pieces) => {
                self.clock.sleep_until(self.clock.now() + wait).await;
                say(pieces);
                let mut answer = CloudAnswer::new(pieces.concat());
                answer.usage = Some(Tokens { input: 3, output: 2 });
                Ok(answer)
            }
            Act::Fails(pieces, kind) => {
                say(pieces);
                Err(Error::new(kind, "failed on purpose").free_of_charge(kind == ErrorKind::Connect))
            }
        }
    }
}

impl LargeModel for Scripted {
    fn answer<'a>(&'a self, _: &'a Request) -> BoxFuture<'a, Result<CloudAnswer>> {
        Box::pin(self.act(None))
    }

    fn stream<'a>(&'a self, _: &'a Request, on_text: OnText<'a>) -> BoxFuture<'a, Result<CloudAnswer>> {
        Box::pin(self.act(Some(on_text)))
    }
}

/// The answer, and the pieces if it was streamed.
async fn ask(model: &dyn LargeModel, streamed: bool) -> (Result<CloudAnswer>, String) {
    let request = Request::user("hello");
    if !streamed {
        return (model.answer(&request).await, String::new());
    }
    let mut said = String::new();
    let answer = model.stream(&request, &mut |piece| said.push_str(piece)).await;
    (answer, said)
}

const NOW: Duration = Duration::ZERO;

#[tokio::test]
async fn the_next_model_is_asked_only_before_the_first_piece_and_only_if_it_helps() {
    let clock = Arc::new(ManualClock::new());
    for streamed in [false, true] {
        for kind in [
            ErrorKind::Connect,
            ErrorKind::Tls,
            ErrorKind::Server,
            ErrorKind::RateLimited,
            ErrorKind::Unauthorized,
            ErrorKind::Malformed,
            ErrorKind::Truncated,
        ] {
            let first = Scripted::new(&clock, [Act::Fails(&[], kind)]);
            let second = Scripted::new(&clock, [Act::Says(NOW, &["b"])]);
            let both = Failover::new(first).then(Arc::clone(&second));
            let (answer, _) = ask(&both, streamed).await;
            let answer = answer.unwrap();
            assert_eq!((answer.text.as_str(), answer.attempts), ("b", 2), "{kind:?}");
        }
        for (pieces, kind) in [
            (&[][..], ErrorKind::Rejected),
            (&[], ErrorKind::InvalidRequest),
            (&[], ErrorKind::Budget),
            (&["a"], ErrorKind::Truncated),
        ] {
            if !streamed && !pieces.is_empty() {
                continue;
            }
            let second = Scripted::new(&clock, []);
            let both = Failover::new(Scripted::new(&clock, [Act::Fails(pieces, kind)])).then(Arc::clone(&second));
            let (answer, said) = ask(&both, streamed).await;
            assert_eq!((answer.unwrap_err().kind(), second.asked()), (kind, 0));
            assert_eq!(said, pieces.concat());
        }
        let all = [ErrorKind::Connect, ErrorKind::Server].map(|kind| Scripted::new(&clock, [Act::Fails(&[], kind)]));
        let [first, second] = all;
        let error = ask(&Failover::new(first).then(second), streamed).await.0.unwrap_err();
        assert_eq!((error.kind(), error.is_free_of_charge()), (ErrorKind::Server, false));
    }
}

#[tokio::test]
async fn a_slow_model_is_hedged_after_its_percentile_and_one_answer_is_heard() {
    let second = |n| Duration::from_secs(n);
    for streamed in [false, true] {
        let clock = Arc::new(ManualClock::new());
        // Fast enough: the other is left alone. The first twenty answers take one to twenty tenths of a second.
        let times = (1..=20).map(|tenths| Act::Says(Duration::from_millis(100 * tenths), &["a"]));
        let slow = [Act::Says(second(3600), &["late"])];
        let first = Scripted::new(&clock, times.chain(slow));
        let other = Scripted::new(&clock, [Act::Says(NOW, &["b", "b"])]);
        let hedged =
            Hedged::new(Arc::clone(&first), Arc::clone(&other), second(9)).percentile(0.5).clock(clock.clone());
        for _ in 0..20 {
            assert_eq!(ask(&hedged, streamed).await.0.unwrap().text, "a");
        }
        assert_eq!(other.asked(), 0);
        let before = clock.leaps().len();
        let (answer, said) = ask(&hedged, streamed).await;
        assert_eq!(answer.unwrap().text, "bb");
        assert_eq!(said, if streamed { "bb" } else { "" });
        assert!(
            clock.leaps()[before..].contains(&second(1)),
            "the median of those times: {:?}",
            &clock.leaps()[before..]
        );

        // One that fails at once is replaced at once; one whose fault is the request's is not.
        let hedged = |kind, other: &Arc<Scripted>| {
            let first = Scripted::new(&clock, [Act::Fails(&[], kind)]);
            Hedged::new(first, Arc::clone(other), second(9)).clock(clock.clone())
        };
        let other = Scripted::new(&clock, [Act::Says(NOW, &["b"])]);
        assert_eq!(ask(&hedged(ErrorKind::Connect, &other), streamed).await.0.unwrap().text, "b");
        let refused = ask(&hedged(ErrorKind::Rejected, &other), streamed).await.0.unwrap_err();
        assert_eq!((refused.kind(), other.asked()), (ErrorKind::Rejected, 1));
    }
}

#[tokio::test]
async fn only_the_very_same_storable_question_is_answered_from_memory_and_only_for_a_while() {
    let clock = Arc::new(ManualClock::new());
    let says = (0..99).map(|_| Act::Says(NOW, &["answer"]));
    let model = Scripted::new(&clock, says);
    let cached = Cached::new(Arc::clone(&model), Duration::from_secs(60), 2 * (256 + 6)).clock(clock.clone());
    let question = |text: &str| Request::user(text);
    let ask = async |request: &Request| cached.answer(request).await.unwrap();
    let first = ask(&question("a")).await;
    assert_eq!((first.attempts, model.asked()), (1, 1));
    let again = ask(&question("a").idempotency_key("other")).await;
    assert_eq!((again.text.as_str(), again.attempts, model.asked()), ("answer", 0, 1));
    assert_eq!(again.usage, Some(Tokens::default()));
    let mut said = String::new();
    cached.stream(&question("a"), &mut |piece| said.push_str(piece)).await.unwrap();
    assert_eq!((said.as_str(), model.asked()), ("answer", 1));

    let tool = Tool::new("f", serde_json::json!({}));
    let others = [
        question("a").max_tokens(7),
        question("a").task("t"),
        question("a").tools(vec![tool]),
        Request::messages(vec![Message::system("a")]),
        question("a").privacy(Privacy::Transient),
        question("a").privacy(Privacy::Transient),
    ];
    for (more, other) in others.iter().enumerate() {
        ask(other).await;
        assert_eq!(model.asked(), 2 + more);
    }
    // There is room for two, and those came after it.
    ask(&question("a")).await;
    assert_eq!(model.asked(), 8);
    clock.advance(Duration::from_secs(59));
    ask(&question("a")).await;
    assert_eq!(model.asked(), 8);
    clock.advance(Duration::from_secs(1));
    ask(&question("a")).await;
    assert_eq!(model.asked(), 9);
    assert!(!format!("{cached:?}").contains("answer"));
}
