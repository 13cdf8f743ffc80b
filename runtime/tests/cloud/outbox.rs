//! The outbox: in order, under one key, once, within its caps, over restarts.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use margay::cloud::{BoxFuture, CloudAnswer, CloudClient, LargeModel, Retry, Roots};
use margay::policy::{Reason, Threshold};
use margay::stores::{Fill, MAX_PROMPT_BYTES, Outbox, OutboxBuilder, Outcome};
use margay::testing::{FaultyServer as Server, Reply};
use margay::{Error, ErrorKind, Message, Origin, Priority, Request, Result, Ticket, Tokens};

use crate::calendar::Calendar;
use crate::cascade::builder;

/// A cloud that repeats the question while its list of failures is empty, and remembers what it was asked.
#[derive(Default)]
struct Echo {
    failures: Mutex<VecDeque<ErrorKind>>,
    asked: Mutex<Vec<Request>>,
}

impl Echo {
    fn failing(kinds: impl IntoIterator<Item = ErrorKind>) -> Self {
        Self { failures: Mutex::new(kinds.into_iter().collect()), asked: Mutex::default() }
    }

    /// The questions so far; the list is emptied.
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
            .into_iter()
            .map(|mut asked| asked.messages.remove(0).content)
            .collect()
    }
}

impl LargeModel for Echo {
    fn answer<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<CloudAnswer>> {
        self.asked.lock().unwrap().push(request.clone());
        let failure = self.failures.lock().unwrap().pop_front();
        let mut answer = CloudAnswer::new(format!("re: {}", request.messages[0].content));
        answer.usage = Some(Tokens { input: 3, output: 2 });
        Box::pin(async move { failure.map_or(Ok(answer), |kind| Err(Error::new(kind, "failed on purpose"))) })
    }
}

struct File(tempfile::TempDir);

impl File {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("outbox.redb")
    }

    fn open(&self) -> Outbox {
        self.with(Outbox::builder())
    }

    fn with(&self, builder: OutboxBuilder) -> Outbox {
        builder.open(self.path()).unwrap()
    }
}

async fn put(outbox: &Outbox, text: &str) -> Result<Ticket> {
    outbox.put(&Request::user(text)).await
}

fn answered(text: &str) -> Outcome {
    Outcome::Answered {
        text: text.into(),
        tool_calls: Vec::new(),
        usage: Some(Tokens { input: 3, output: 2 }),
        cost: None,
    }
}

#[tokio::test]
async fn what_is_urgent_goes_first_and_the_rest_in_order() {
    let (file, cloud) = (File::new(), Echo::default());
    let outbox = file.open();
    for (text, priority) in [
        ("a", Priority::Low),
        ("b", Priority::Normal),
        ("c", Priority::High),
        ("d", Priority::Normal),
        ("e", Priority::High),
    ] {
        outbox.put(&Request::user(text).priority(priority)).await.unwrap();
    }
    let drained = outbox.drain(&cloud).await.unwrap();
    assert_eq!((drained.finished, drained.stopped.is_none()), (5, true));
    assert_eq!(cloud.asked(), ["c", "e", "b", "d", "a"]);
    assert_eq!(outbox.drain(&cloud).await.unwrap().finished, 0);
    assert!(cloud.asked().is_empty());
}

#[tokio::test]
async fn a_result_comes_until_it_is_acknowledged_and_never_again() {
    let (file, cloud) = (File::new(), Echo::default());
    let ticket = put(&file.open(), "hello").await.unwrap();
    assert_eq!(file.open().next_result().await.unwrap(), None);
    file.open().drain(&cloud).await.unwrap();
    for _ in 0..2 {
        assert_eq!(file.open().next_result().await.unwrap(), Some((ticket, answered("re: hello"))));
    }
    let outbox = file.open();
    assert!(outbox.acknowledge(ticket).await.unwrap());
    assert!(!outbox.acknowledge(ticket).await.unwrap());
    assert_eq!(outbox.next_result().await.unwrap(), None);
    assert_eq!(outbox.fill().await.unwrap(), Fill::default());
    assert_ne!(put(&outbox, "again").await.unwrap(), ticket);
}

#[tokio::test]
async fn a_prompt_keeps_its_key_and_all_it_said_over_failures_and_restarts() {
    let (file, cloud) = (File::new(), Echo::failing([ErrorKind::Connect, ErrorKind::Truncated]));
    let request = Request::messages(vec![Message::user("one"), Message::assistant("two"), Message::user("three")]);
    let request = request.task("chat").class("cheap").max_tokens(9);
    file.open().put(&request).await.unwrap();
    put(&file.open(), "next").await.unwrap();
    for stopped in [Some(ErrorKind::Connect), Some(ErrorKind::Truncated), None] {
        let drained = file.open().drain(&cloud).await.unwrap();
        assert_eq!(drained.stopped.map(|error| error.kind()), stopped);
    }
    let asked = cloud.asked.lock().unwrap();
    assert_eq!(asked.len(), 4);
    let first = &asked[0];
    for asked in &asked[..3] {
        assert_eq!(asked.messages, request.messages);
        assert_eq!((&asked.task, &asked.class, asked.max_tokens), (&request.task, &request.class, 9));
        assert_eq!(asked.idempotency_key, first.idempotency_key);
    }
    assert_eq!(first.idempotency_key.as_ref().unwrap().len(), 32);
    assert_ne!(first.idempotency_key, asked[3].idempotency_key);
}

#[tokio::test]
async fn a_prompt_that_no_one_will_answer_does_not_hold_up_the_next() {
    for kind in [ErrorKind::Rejected, ErrorKind::Malformed, ErrorKind::InvalidRequest] {
        let (file, cloud) = (File::new(), Echo::failing([kind]));
        let outbox = file.open();
        let tickets = [put(&outbox, "bad").await.unwrap(), put(&outbox, "good").await.unwrap()];
        assert_eq!(outbox.drain(&cloud).await.unwrap().finished, 2);
        let refused = Outcome::Refused { why: "failed on purpose".into() };
        for (ticket, outcome) in tickets.into_iter().zip([refused, answered("re: good")]) {
            assert_eq!(outbox.next_result().await.unwrap(), Some((ticket, outcome)));
            outbox.acknowledge(ticket).await.unwrap();
        }
    }
}

#[tokio::test]
async fn what_outlives_its_time_ends_unsent() {
    let (file, cloud, calendar) = (File::new(), Echo::default(), Calendar::at(10));
    let days = |days: u64| Duration::from_secs(days * 24 * 60 * 60);
    let outbox = file.with(Outbox::builder().time_to_live(days(2)).clock(calendar.clone()));
    let old = put(&outbox, "old").await.unwrap();
    calendar.set(11);
    put(&outbox, "new").await.unwrap();
    calendar.set(12);
    assert_eq!(outbox.next_result().await.unwrap(), Some((old, Outcome::Expired)));
    assert_eq!(outbox.drain(&cloud).await.unwrap().finished, 1);
    assert_eq!(cloud.asked(), ["new"]);
    // Nothing expires that has its result.
    calendar.set(99);
    outbox.acknowledge(old).await.unwrap();
    assert_eq!(outbox.next_result().await.unwrap().map(|(_, outcome)| outcome), Some(answered("re: new")));
}

#[tokio::test]
async fn caps_hold_and_room_comes_back() {
    let (file, cloud) = (File::new(), Echo::default());
    let outbox = file.with(Outbox::builder().max_entries(2));
    let first = put(&outbox, "one").await.unwrap();
    put(&outbox, "two").await.unwrap();
    assert_eq!(put(&outbox, "three").await.unwrap_err().kind(), ErrorKind::QueueFull);
    // A result takes the place of its prompt until it is acknowledged.
    outbox.drain(&cloud).await.unwrap();
    assert_eq!(put(&outbox, "three").await.unwrap_err().kind(), ErrorKind::QueueFull);
    outbox.acknowledge(first).await.unwrap();
    put(&outbox, "three").await.unwrap();
    drop(outbox);

    let held = file.open().fill().await.unwrap().bytes;
    let outbox = file.with(Outbox::builder().max_bytes(held + 200));
    assert_eq!(put(&outbox, &"x".repeat(200)).await.unwrap_err().kind(), ErrorKind::QueueFull);
    put(&outbox, "x").await.unwrap();
    let huge = put(&outbox, &"x".repeat(MAX_PROMPT_BYTES)).await.unwrap_err();
    assert_eq!(huge.kind(), ErrorKind::InvalidRequest);
}

#[tokio::test]
async fn two_drains_send_nothing_twice() {
    let (file, cloud) = (File::new(), Echo::default());
    let outbox = file.open();
    for text in ["a", "b", "c"] {
        put(&outbox, text).await.unwrap();
    }
    let (one, two) = tokio::join!(outbox.drain(&cloud), outbox.drain(&cloud));
    assert_eq!(one.unwrap().finished + two.unwrap().finished, 3);
    assert_eq!(cloud.asked(), ["a", "b", "c"]);
}

#[tokio::test]
async fn another_s_file_is_refused() {
    let file = File::new();
    std::fs::write(file.path(), "a letter to my aunt").unwrap();
    assert_eq!(Outbox::builder().open(file.path()).unwrap_err().kind(), ErrorKind::Store);
    let file = File::new();
    margay::stores::Budget::builder(Default::default()).open(file.path()).unwrap();
    let error = Outbox::builder().open(file.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Store);
    assert!(error.to_string().contains("layout"), "{error}");
}

#[tokio::test]
async fn a_damaged_file_is_an_error_or_harmless_but_never_a_panic_or_another_s_words() {
    let file = File::new();
    let outbox = file.open();
    for text in ["one", "two", "three"] {
        put(&outbox, text).await.unwrap();
    }
    outbox.drain(&Echo::failing([ErrorKind::Rejected])).await.unwrap();
    drop(outbox);
    let whole = std::fs::read(file.path()).unwrap();
    let said: Vec<usize> = (0..whole.len()).filter(|at| whole[*at] != 0).collect();
    for at in said.iter().step_by(said.len() / 50) {
        let mut bytes = whole.clone();
        bytes[*at] ^= 0x55;
        std::fs::write(file.path(), bytes).unwrap();
        match Outbox::builder().open(file.path()) {
            Err(error) => assert!(matches!(error.kind(), ErrorKind::Store | ErrorKind::Io), "{at}: {error:?}"),
            Ok(outbox) => {
                let (_, outcome) = outbox.next_result().await.unwrap().unwrap();
                assert_eq!(outcome, Outcome::Refused { why: "failed on purpose".into() }, "{at}");
            }
        }
    }
}

#[tokio::test]
async fn a_cascade_queues_what_cannot_go_and_nothing_is_sent_under_two_keys() {
    let down = || Reply::http("503 Service Unavailable", "", "");
    let server = Server::start([down(), down(), Reply::says("at last")]).await;
    let client = || {
        let builder = CloudClient::openai(server.endpoint(), "large").retry(Retry::NEVER);
        builder.roots(Roots::Pem(server.authority())).build().unwrap()
    };
    let file = File::new();
    let outbox = file.open();
    let cascade = builder(Threshold::DEFER_ALL, client()).outbox(outbox.clone()).build().unwrap();
    let answer = cascade.answer(Request::user("hello").max_tokens(2)).await.unwrap();
    assert_eq!((answer.origin, answer.text.as_str()), (Origin::Queued, ""));
    assert_eq!(answer.cloud_error.unwrap().kind(), ErrorKind::Server);
    assert_eq!(outbox.drain(&client()).await.unwrap().stopped.unwrap().kind(), ErrorKind::Server);
    assert_eq!(outbox.drain(&client()).await.unwrap().finished, 1);
    let (ticket, outcome) = outbox.next_result().await.unwrap().unwrap();
    assert_eq!((Some(ticket), outcome), (answer.ticket, answered("at last")));
    let asked = server.asked();
    let key = asked[0].header("idempotency-key").unwrap();
    assert_eq!(asked.len(), 3);
    assert!(asked.iter().all(|other| other.header("idempotency-key") == Some(key) && other.body == asked[0].body));
}

#[tokio::test]
async fn no_rendering_shows_a_prompt() {
    let file = File::new();
    let outbox = file.open();
    let budget = margay::stores::Budget::builder(Default::default()).open(file.0.path().join("budget.redb")).unwrap();
    put(&outbox, "planted").await.unwrap();
    let metered = budget.meter(Echo::default());
    let request = Request::user("planted").class("c".repeat(99));
    let error = metered.answer(&request).await.unwrap_err();
    assert!(!format!("{outbox:?} {budget:?} {metered:?} {error:?}").contains("planted"));
}

#[tokio::test]
async fn a_cascade_queues_only_what_waiting_helps_and_what_there_is_room_for() {
    let (file, full) = (File::new(), File::new());
    let (outbox, full) = (file.open(), full.with(Outbox::builder().max_entries(0)));
    let ask = |kind, outbox: &Outbox, private: bool| {
        let cloud = Arc::new(Echo::failing([kind, kind]));
        let cascade =
            builder(Threshold::DEFER_ALL, cloud).outbox(outbox.clone()).breaker(1.try_into().unwrap(), Duration::MAX);
        let cascade = cascade.build().unwrap();
        let request = Request::user("hello").max_tokens(2);
        async move {
            if private {
                return [cascade.answer_local(request.local_only()).await.unwrap().origin; 2];
            }
            let first = cascade.answer(request.clone()).await.unwrap();
            let second = cascade.answer(request).await.unwrap();
            assert_eq!(second.ticket.is_some(), second.origin == Origin::Queued);
            assert!(first.origin == Origin::Local || second.reason == Some(Reason::BreakerOpen));
            [first.origin, second.origin]
        }
    };
    for kind in [ErrorKind::Connect, ErrorKind::RateLimited, ErrorKind::Server, ErrorKind::Truncated] {
        assert_eq!(ask(kind, &outbox, false).await, [Origin::Queued; 2], "{kind:?}");
    }
    assert_eq!(outbox.fill().await.unwrap().queued, 8);
    for kind in [ErrorKind::Rejected, ErrorKind::Unauthorized, ErrorKind::Budget] {
        assert_eq!(ask(kind, &outbox, false).await, [Origin::Local; 2], "{kind:?}");
    }
    assert_eq!(ask(ErrorKind::Connect, &outbox, true).await, [Origin::Local; 2]);
    assert_eq!(outbox.fill().await.unwrap().queued, 8);
    assert_eq!(ask(ErrorKind::Connect, &full, false).await, [Origin::Local; 2]);
}

/// Seals by turning bits over and adding the place; for tests, and no secret of any kind.
struct Sealed(u8);

impl margay::stores::Cipher for Sealed {
    fn seal(&self, place: &[u8], plain: &[u8]) -> Result<Vec<u8>> {
        Ok(place.iter().chain(plain).map(|byte| byte ^ self.0).collect())
    }

    fn open(&self, place: &[u8], sealed: &[u8]) -> Result<Vec<u8>> {
        let opened: Vec<u8> = sealed.iter().map(|byte| byte ^ self.0).collect();
        let plain = opened.strip_prefix(place).map(<[u8]>::to_vec);
        plain.ok_or_else(|| Error::new(ErrorKind::Store, "sealed with another key, or for another place"))
    }
}

#[tokio::test]
async fn a_sealed_outbox_shows_nothing_and_opens_only_with_its_key() {
    let (file, cloud) = (File::new(), Echo::default());
    let ticket = put(&file.with(Outbox::builder().cipher(Sealed(0x55))), "planted").await.unwrap();
    let holds = |text: &str| {
        let bytes = std::fs::read(file.path()).unwrap();
        bytes.windows(text.len()).any(|part| part == text.as_bytes())
    };
    assert!(!holds("planted"));
    let wrong = file.with(Outbox::builder().cipher(Sealed(0x33)));
    assert_eq!(wrong.drain(&cloud).await.unwrap_err().kind(), ErrorKind::Store);
    drop(wrong);
    assert_eq!(Outbox::builder().open(file.path()).unwrap_err().kind(), ErrorKind::Store, "it is sealed");
    let outbox = file.with(Outbox::builder().cipher(Sealed(0x55)));
    assert_eq!(outbox.drain(&cloud).await.unwrap().finished, 1);
    assert!(!holds("re: planted"));
    assert_eq!(outbox.next_result().await.unwrap(), Some((ticket, answered("re: planted"))));
}

#[tokio::test]
async fn what_must_not_be_stored_is_not_queued() {
    let file = File::new();
    let outbox = file.open();
    let transient = Request::user("hello").max_tokens(2).privacy(margay::Privacy::Transient);
    assert_eq!(outbox.put(&transient).await.unwrap_err().kind(), ErrorKind::InvalidRequest);
    let cloud = Arc::new(Echo::failing([ErrorKind::Connect]));
    let cascade = builder(Threshold::DEFER_ALL, cloud).outbox(outbox.clone()).build().unwrap();
    assert_eq!(cascade.answer(transient).await.unwrap().origin, Origin::Local);
    assert_eq!(outbox.fill().await.unwrap().queued, 0);
}

/// A way to the cloud that opens when it is told to.
#[derive(Default)]
struct Gate(tokio::sync::watch::Sender<bool>);

impl margay::cloud::Connectivity for Gate {
    fn is_online(&self) -> bool {
        *self.0.borrow()
    }

    fn online(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.0.subscribe().wait_for(|open| *open).await.unwrap();
        })
    }

    fn report(&self, reached: bool) {
        self.0.send_replace(reached);
    }
}

#[tokio::test]
async fn offline_queries_are_queued_drained_in_order_when_the_way_opens_and_delivered_once() {
    let (file, cloud, gate) = (File::new(), Arc::new(Echo::default()), Arc::new(Gate::default()));
    let outbox = file.open();
    let left = put(&outbox, "from before").await.unwrap();
    outbox.drain(&*cloud).await.unwrap();
    let cascade = builder(Threshold::DEFER_ALL, Arc::clone(&cloud))
        .outbox(outbox.clone())
        .connectivity(gate.clone())
        .build()
        .unwrap();
    let mut tickets = vec![left];
    for text in ["a", "b"] {
        let answer = cascade.answer(Request::user(text).max_tokens(2)).await.unwrap();
        assert_eq!((answer.origin, answer.reason), (Origin::Queued, Some(Reason::Offline)));
        tickets.push(answer.ticket.unwrap());
    }
    assert_eq!(cloud.asked(), ["from before"]);

    let (delivered, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let refusals = Arc::new(Mutex::new(1));
    let deliver = move |ticket: Ticket, outcome: Outcome| -> BoxFuture<'static, bool> {
        let (delivered, refusals) = (delivered.clone(), Arc::clone(&refusals));
        Box::pin(async move {
            // The first delivery fails, and comes again.
            if std::mem::replace(&mut *refusals.lock().unwrap(), 0) > 0 {
                return false;
            }
            delivered.send((ticket, outcome)).unwrap();
            true
        })
    };
    let (outbox_too, cloud_too, gate_too) = (outbox.clone(), Arc::clone(&cloud), gate.clone());
    let draining =
        tokio::spawn(async move { outbox_too.keep_draining(&*cloud_too, &*gate_too, Duration::ZERO, &deliver).await });
    assert_eq!(seen.recv().await.unwrap(), (left, answered("re: from before")));
    gate.0.send_replace(true);
    for (ticket, text) in tickets[1..].iter().zip(["re: a", "re: b"]) {
        assert_eq!(seen.recv().await.unwrap(), (*ticket, answered(text)));
    }
    // Awake for what is queued later, too.
    let later = put(&outbox, "c").await.unwrap();
    assert_eq!(seen.recv().await.unwrap(), (later, answered("re: c")));
    assert_eq!(cloud.asked(), ["a", "b", "c"]);
    while outbox.fill().await.unwrap().results > 0 {
        tokio::task::yield_now().await;
    }
    draining.abort();
    assert!(draining.await.unwrap_err().is_cancelled());
    assert_eq!(outbox.next_result().await.unwrap(), None);
}
