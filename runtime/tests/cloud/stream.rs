//! Streams: what is handed out stands, or is taken back in so many words, and never changes silently.

use std::sync::Arc;
use std::time::Duration;

use margay::cloud::{BoxFuture, CloudAnswer, CloudClient, LargeModel, OnText, Retry, Roots};
use margay::policy::Threshold;
use margay::privacy::Patterns;
use margay::testing::{FaultyServer, ManualClock, Reply};
use margay::{
    Answer, AnswerStream, Cancel, Cascade, Deadline, Error, ErrorKind, OnCloudFailure, Origin, Request, Result, Stream,
    StreamEvent, Tokens,
};

use tokio::sync::Notify;

use crate::cascade::{EXPECTED, builder, request};

/// All that came of a stream.
#[derive(Debug)]
pub(crate) struct Heard {
    /// Texts and their origins, `None` for what takes them back.
    pub(crate) events: Vec<Option<(String, Origin)>>,
    pub(crate) end: Result<Answer>,
}

impl Heard {
    pub(crate) async fn all(stream: AnswerStream) -> Self {
        Self::noting(stream, &Notify::new()).await
    }

    /// The same, telling `heard` when the first text of the cloud comes.
    pub(crate) async fn noting(mut stream: AnswerStream, heard: &Notify) -> Self {
        let mut events = Vec::new();
        let end = loop {
            match stream.next().await.expect("a stream ends with an answer or an error") {
                Ok(StreamEvent::Token { text, origin }) => {
                    assert!(!text.is_empty());
                    if origin == Origin::Cloud {
                        heard.notify_one();
                    }
                    events.push(Some((text, origin)));
                }
                Ok(StreamEvent::Superseded { reason }) => {
                    assert!(reason.is_some());
                    events.push(None);
                }
                Ok(StreamEvent::Done(answer)) => break Ok(*answer),
                Err(error) => break Err(error),
                Ok(_) => unreachable!("no other event"),
            }
        };
        assert!(stream.next().await.is_none(), "nothing comes after the end");
        let heard = Self { events, end };
        if let Ok(answer) = &heard.end {
            assert_eq!(heard.standing(), answer.text, "{heard:?}");
        }
        heard
    }

    /// The text since it was last taken back.
    pub(crate) fn standing(&self) -> String {
        let from = self.events.iter().rposition(Option::is_none).map_or(0, |last| last + 1);
        self.events[from..].iter().flatten().map(|(text, _)| text.as_str()).collect()
    }

    fn origins(&self) -> Vec<Option<Origin>> {
        let mut origins: Vec<_> = self.events.iter().map(|event| event.as_ref().map(|(_, origin)| *origin)).collect();
        origins.dedup();
        origins
    }
}

fn client(server: &FaultyServer) -> margay::cloud::CloudClientBuilder {
    CloudClient::openai(server.endpoint(), "large").roots(Roots::Pem(server.authority())).retry(Retry::NEVER)
}

/// A threshold that the device's answer misses, but not before it is written: so that there is something to take back.
async fn just_missed() -> Threshold {
    let kept = builder(Threshold::KEEP_ALL, Pieces(&[], None)).build().unwrap().answer(request()).await.unwrap();
    Threshold::new(kept.score.unwrap().value().next_up()).unwrap()
}

async fn deferring(replies: impl IntoIterator<Item = Reply>) -> (FaultyServer, Cascade) {
    let server = FaultyServer::start(replies).await;
    let cascade = builder(Threshold::DEFER_ALL, client(&server).build().unwrap()).build().unwrap();
    (server, cascade)
}

#[tokio::test]
async fn a_sure_device_streams_alone() {
    let (server, _) = deferring([]).await;
    let cascade = builder(Threshold::KEEP_ALL, client(&server).build().unwrap()).build().unwrap();
    let held = Heard::all(cascade.stream(request(), Stream::Hold)).await;
    assert_eq!(held.events, [Some((EXPECTED.greedy_text.clone(), Origin::Local))]);
    let early = Heard::all(cascade.stream(request(), Stream::Optimistic)).await;
    assert!(early.events.len() > 1 && early.origins() == [Some(Origin::Local)], "{early:?}");
    for heard in [held, early] {
        assert_eq!(heard.end.unwrap().text, EXPECTED.greedy_text);
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn an_unsure_device_is_superseded_before_the_first_cloud_token_or_says_nothing() {
    for (mode, before) in [(Stream::Hold, &[][..]), (Stream::Optimistic, &[Some(Origin::Local), None][..])] {
        let server = FaultyServer::start([Reply::streams(&["book ", "a", " flight"])]).await;
        let cascade = builder(just_missed().await, client(&server).build().unwrap()).build().unwrap();
        let heard = Heard::all(cascade.stream(request(), mode)).await;
        assert_eq!(heard.origins(), [before, &[Some(Origin::Cloud)]].concat(), "{mode:?}");
        assert_eq!(heard.events.iter().flatten().filter(|(_, origin)| *origin == Origin::Cloud).count(), 3);
        let answer = heard.end.unwrap();
        assert_eq!((answer.text.as_str(), answer.origin, answer.attempts), ("book a flight", Origin::Cloud, 1));
        assert_eq!(answer.usage.cloud, Some(Tokens { input: 3, output: 2 }));
        assert_eq!(answer.finish_reason.as_deref(), Some("stop"));
        let [asked] = &server.asked()[..] else { panic!("one request") };
        let body: serde_json::Value = serde_json::from_slice(&asked.body).unwrap();
        assert_eq!((&body["stream"], &body["stream_options"]["include_usage"]), (&true.into(), &true.into()));
    }
}

#[tokio::test]
async fn streams_share_a_connection() {
    let (server, cascade) = deferring([Reply::streams(&["one"]), Reply::streams(&["two"]), Reply::says("three")]).await;
    for text in ["one", "two"] {
        let heard = Heard::all(cascade.stream(request(), Stream::Hold)).await;
        assert_eq!(heard.end.unwrap().text, text);
    }
    assert_eq!(cascade.answer(request()).await.unwrap().text, "three");
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn cut_at_any_byte_a_stream_falls_back_before_its_first_token_and_never_after() {
    let whole = Reply::streams(&["book ", "a flight"]);
    let at = |text: &str| whole.bytes().windows(text.len()).position(|part| part == text.as_bytes()).unwrap();
    let (first, stop) = (at("book "), at(r#""stop""#));
    let length = whole.bytes().len();
    let server = FaultyServer::start([]).await;
    let cascade = builder(Threshold::DEFER_ALL, client(&server).build().unwrap())
        .breaker(u32::MAX.try_into().unwrap(), Duration::MAX)
        .build()
        .unwrap();
    for end in (0..length).step_by(3) {
        server.reply([whole.clone().cut_after(end)]);
        let heard = Heard::all(cascade.stream(request(), Stream::Optimistic)).await;
        match heard.end.as_ref() {
            Ok(answer) if answer.origin == Origin::Local => {
                assert!(end <= first + 20, "{end}: text of the cloud had been handed out");
                assert_eq!(
                    (answer.text.as_str(), heard.origins()),
                    (EXPECTED.greedy_text.as_str(), vec![Some(Origin::Local)])
                );
                assert!(answer.cloud_error.is_some());
            }
            // All of the text and the reason of its end had come: only counts were lost.
            Ok(answer) => assert!(answer.text == "book a flight" && end > stop, "{end}: {answer:?}"),
            Err(error) => {
                assert!(first < end && end <= stop + 20, "{end}: {error:?}");
                assert_eq!(error.kind(), ErrorKind::Truncated);
                assert_eq!(error.partial_text(), Some(heard.standing().as_str()));
                assert!("book a flight".starts_with(&heard.standing()) && !heard.standing().is_empty());
                assert!(!format!("{error} {error:?}").contains("book"), "{error:?}");
            }
        }
    }
}

#[tokio::test]
async fn failures_before_the_first_token_are_tried_again() {
    let server = FaultyServer::start([
        Reply::status("503 Service Unavailable"),
        Reply::streams(&["never"]).cut_after(120),
        Reply::streams(&["at ", "last"]),
    ])
    .await;
    let retry = Retry { attempts: 3, base: Duration::from_secs(1), cap: Duration::from_secs(1) };
    let client = client(&server).retry(retry).clock(Arc::new(ManualClock::new())).build().unwrap();
    let cascade = builder(Threshold::DEFER_ALL, client).build().unwrap();
    let answer = Heard::all(cascade.stream(request(), Stream::Hold)).await.end.unwrap();
    assert_eq!((answer.text.as_str(), answer.attempts), ("at last", 3));
}

#[tokio::test]
async fn a_server_that_does_not_stream_answers_in_one_piece() {
    let (_server, cascade) = deferring([Reply::says("whole")]).await;
    let heard = Heard::all(cascade.stream(request(), Stream::Hold)).await;
    assert_eq!(heard.events, [Some(("whole".into(), Origin::Cloud))]);
}

#[tokio::test]
async fn what_was_taken_out_comes_back_across_the_borders_of_pieces() {
    let server = FaultyServer::start([Reply::streams(&["write to [EM", "AIL_", "1", "], not [EMAIL_9] or ["])]).await;
    let client = client(&server).redactor(Patterns::built_in()).build().unwrap();
    let mut pieces = Vec::new();
    let mut on_text = |piece: &str| pieces.push(piece.to_owned());
    let question = Request::user("mail ada@example.com");
    let answer = client.stream(&question, &mut on_text).await.unwrap();
    assert_eq!(answer.text, "write to ada@example.com, not [EMAIL_9] or [");
    assert_eq!(pieces, ["write to ", "ada@example.com, not [EMAIL_9] or ", "["]);
    let body = String::from_utf8(server.asked()[0].body.clone()).unwrap();
    assert!(body.contains("mail [EMAIL_1]") && !body.contains("ada@"), "{body}");
}

#[tokio::test]
async fn a_stream_ends_at_its_deadline_and_at_a_cancel_with_what_it_has() {
    let begun = Reply::streams(&["book ", "a flight"]);
    let end = begun.bytes().windows(2).position(|two| two == b"a ").unwrap();
    for cancelled in [false, true] {
        let server = FaultyServer::start([begun.clone().stall_after(end)]).await;
        let clock = Arc::new(ManualClock::new());
        let client = client(&server).clock(clock.clone()).build().unwrap();
        let cascade = builder(Threshold::DEFER_ALL, client).clock(clock.clone()).build().unwrap();
        let cancel = Cancel::default();
        let request = request().deadline(Deadline::after(Duration::from_secs(60))).cancel(cancel.clone());
        let mut stream = cascade.stream(request, Stream::Hold);
        let first = stream.next().await.unwrap().unwrap();
        assert!(matches!(first, StreamEvent::Token { text, origin: Origin::Cloud } if text == "book "));
        if cancelled {
            cancel.cancel()
        } else {
            clock.advance(Duration::from_secs(61))
        }
        let error = stream.next().await.unwrap().unwrap_err();
        assert_eq!((error.is_cancelled(), error.is_deadline()), (cancelled, !cancelled));
        assert_eq!(error.partial_text(), Some("book "));
    }
}

#[tokio::test]
async fn a_server_that_falls_silent_in_the_midst_is_left_without_a_deadline_too() {
    let begun = Reply::streams(&["book ", "a flight"]);
    let server = FaultyServer::start([begun.clone().stall_after(begun.bytes().len() / 2)]).await;
    let clock = Arc::new(ManualClock::new());
    let client = client(&server).clock(clock.clone()).build().unwrap();
    let cascade = builder(Threshold::DEFER_ALL, client).build().unwrap();
    let mut stream = cascade.stream(request(), Stream::Hold);
    assert!(matches!(stream.next().await, Some(Ok(StreamEvent::Token { .. }))));
    clock.advance(Duration::from_secs(121));
    let error = loop {
        match stream.next().await.unwrap() {
            Ok(StreamEvent::Token { .. }) => {}
            end => break end.unwrap_err(),
        }
    };
    assert_eq!(error.kind(), ErrorKind::Server);
    assert!(error.partial_text().is_some());
}

#[tokio::test]
async fn a_dropped_stream_stops_everything() {
    let (server, cascade) = deferring([Reply::stall()]).await;
    let cancel = Cancel::default();
    let mut stream = cascade.stream(request().cancel(cancel.clone()), Stream::Hold);
    tokio::select! {
        _ = stream.next() => panic!("the server never answers"),
        () = server.stalled() => {}
    }
    drop(stream);
    // The connection went with it: the next request needs another.
    server.reply([Reply::says("yes")]);
    assert_eq!(cascade.answer(request()).await.unwrap().text, "yes");
    assert_eq!(server.connections(), 2);
}

#[test]
fn callers_without_a_runtime_stream_too() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let replies = [Reply::streams(&["book ", "a flight"]), Reply::streams(&["book ", "a flight"])];
    let (_server, cascade) = runtime.block_on(deferring(replies));
    let events: Vec<_> = cascade.stream_blocking(request(), Stream::Hold).unwrap().map(Result::unwrap).collect();
    assert_eq!(events.len(), 3);
    let Some(StreamEvent::Done(answer)) = events.last() else { panic!("{events:?}") };
    assert_eq!(answer.text, "book a flight");
    let asynchronous = runtime.block_on(async { cascade.stream_blocking(request(), Stream::Hold).unwrap_err().kind() });
    assert_eq!(asynchronous, ErrorKind::InvalidRequest);
    // A stream outlives its cascade.
    let events = cascade.stream_blocking(request(), Stream::Hold).unwrap();
    drop(cascade);
    assert_eq!(events.map(Result::unwrap).count(), 3);
}

/// A large model that gives these pieces and then fails, or does not.
struct Pieces(&'static [&'static str], Option<ErrorKind>);

impl LargeModel for Pieces {
    fn answer<'a>(&'a self, _: &'a Request) -> BoxFuture<'a, Result<CloudAnswer>> {
        unreachable!("only streamed")
    }

    fn stream<'a>(&'a self, _: &'a Request, on_text: OnText<'a>) -> BoxFuture<'a, Result<CloudAnswer>> {
        Box::pin(async move {
            for piece in self.0 {
                on_text(piece);
                tokio::task::yield_now().await;
            }
            match self.1 {
                Some(kind) => Err(Error::new(kind, "failed on purpose")),
                None => Ok(CloudAnswer::new(self.0.concat())),
            }
        })
    }
}

#[tokio::test]
async fn large_models_of_others_are_held_to_the_same_rules() {
    let missed = just_missed().await;
    for then in [OnCloudFailure::FallBackToLocal, OnCloudFailure::Abstain, OnCloudFailure::Fail] {
        for mode in [Stream::Hold, Stream::Optimistic] {
            let cascade = |pieces, kind| builder(missed, Pieces(pieces, kind)).on_cloud_failure(then).build().unwrap();
            let cut = Heard::all(cascade(&["a", "b"], Some(ErrorKind::Connect)).stream(request(), mode)).await;
            let error = cut.end.unwrap_err();
            assert_eq!((error.kind(), error.partial_text()), (ErrorKind::Connect, Some("ab")));
            let never = Heard::all(cascade(&[], Some(ErrorKind::Connect)).stream(request(), mode)).await;
            match (then, &never.end) {
                (OnCloudFailure::Fail, Err(error)) => assert_eq!(error.partial_text(), None),
                (OnCloudFailure::Abstain, Ok(answer)) => {
                    assert_eq!((answer.origin, answer.text.as_str()), (Origin::Abstained, ""));
                    // What was shown of the device's answer is taken back.
                    assert_eq!(never.events.last(), (mode == Stream::Optimistic).then_some(&None));
                }
                (_, Ok(answer)) => assert_eq!((answer.origin, &answer.text), (Origin::Local, &EXPECTED.greedy_text)),
                (_, Err(error)) => panic!("{then:?} {mode:?}: {error:?}"),
            }
        }
    }
}

#[tokio::test]
async fn the_device_answers_now_and_the_cloud_later() {
    let (server, cascade) = deferring([Reply::says("better")]).await;
    let (now, update) = cascade.answer_now(request()).await.unwrap();
    assert_eq!((now.text.as_str(), now.origin), (EXPECTED.greedy_text.as_str(), Origin::Local));
    assert!(now.reason.is_some() && server.connections() == 0);
    let later = update.unwrap().await.unwrap();
    assert_eq!((later.text.as_str(), later.origin), ("better", Origin::Cloud));
    assert_eq!(now.score.map(|score| score.value()), later.score.map(|score| score.value()));

    server.reply([Reply::status("400 Bad Request")]);
    let (_, update) = cascade.answer_now(request()).await.unwrap();
    assert_eq!(update.unwrap().await.unwrap_err().kind(), ErrorKind::Rejected);

    let sure = builder(Threshold::KEEP_ALL, client(&server).build().unwrap()).build().unwrap();
    let (now, update) = sure.answer_now(request()).await.unwrap();
    assert!(now.reason.is_none() && update.is_none());
}
