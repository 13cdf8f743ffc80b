//! What the cloud may cost: never passed, on the disk before it is spent, the same after a restart.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use margay::cloud::{BoxFuture, CloudAnswer, CloudClient, LargeModel, Retry, Roots};
use margay::stores::{Budget, BudgetBuilder, Limit, Period, Price, Spent};
use margay::testing::{FaultyServer as Server, Reply, refusing};
use margay::{Error, ErrorKind, Money, Request, Result, Tokens};

use crate::calendar::Calendar;

/// One micro-unit a token, read or written.
const PRICE: Price = Price { input: 1_000_000, output: 1_000_000 };

/// 1 byte, 16 tokens around it, 16 before the answer, 7 of answer: the most that `request` can cost.
const MOST: u64 = 40;

fn request() -> Request {
    Request::user("?").max_tokens(7)
}

/// A cloud that does the same each time, and counts.
struct Cloud {
    outcome: Result<Option<Tokens>, ErrorKind>,
    free: bool,
    asked: AtomicUsize,
}

impl Cloud {
    fn new(outcome: Result<Option<Tokens>, ErrorKind>) -> Arc<Self> {
        Arc::new(Self { outcome, free: false, asked: AtomicUsize::new(0) })
    }

    fn costing(tokens: u64) -> Arc<Self> {
        Self::new(Ok(Some(Tokens { input: tokens, output: 0 })))
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

impl LargeModel for Cloud {
    fn answer<'a>(&'a self, _: &'a Request) -> BoxFuture<'a, Result<CloudAnswer>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let outcome = self.outcome.map(|usage| {
            let mut answer = CloudAnswer::new("yes");
            answer.usage = usage;
            answer
        });
        let outcome = outcome.map_err(|kind| Error::new(kind, "failed on purpose").free_of_charge(self.free));
        Box::pin(async { outcome })
    }
}

fn daily(tokens: u64) -> BudgetBuilder {
    Budget::builder(PRICE).limit(Limit::per(Period::Day).tokens(tokens))
}

fn tokens(budget: &Budget, period: Period, class: Option<&str>) -> u64 {
    let Spent { money, tokens, .. } = budget.spent(period, class).unwrap();
    assert_eq!(money.micros(), tokens, "a token is a micro-unit");
    tokens
}

fn today(budget: &Budget) -> u64 {
    tokens(budget, Period::Day, None)
}

/// The budget file of a test.
struct File(tempfile::TempDir);

impl File {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> std::path::PathBuf {
        self.0.path().join("budget.redb")
    }
}

#[test]
fn prices_are_rounded_up_and_never_overflow() {
    // 19 * 2.5 + 10 * 10 = 147.5 micro-units.
    let price = Price { input: 2_500_000, output: 10_000_000 };
    assert_eq!(price.of(Tokens { input: 19, output: 10 }), Money::from_micros(148));
    assert_eq!(price.of(Tokens::default()).to_string(), "0.000000");
    assert_eq!(Money::from_micros(12_000_345).to_string(), "12.000345");
    let most = Price { input: u64::MAX, output: u64::MAX };
    assert_eq!(most.of(Tokens { input: u64::MAX, output: u64::MAX }), Money::from_micros(u64::MAX));
}

#[tokio::test]
async fn what_the_server_says_is_what_counts_and_the_limit_holds() {
    let file = File::new();
    let budget = daily(100).clock(Calendar::at(7)).open(file.path()).unwrap();
    let cloud = Cloud::costing(30);
    let metered = budget.meter(Arc::clone(&cloud));
    for spent in [30, 60, 90] {
        let answer = metered.answer(&request()).await.unwrap();
        assert_eq!((answer.cost, today(&budget)), (Some(Money::from_micros(30)), spent));
        if spent + MOST > 100 {
            break;
        }
    }
    // 90 and the 40 that the next may cost would be too much, though it would cost 30.
    let error = metered.answer(&request()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Budget, "{error}");
    assert_eq!((cloud.asked(), today(&budget)), (3, 90));
}

#[tokio::test]
async fn money_is_a_limit_too() {
    let file = File::new();
    let limit = |most| Limit::per(Period::Month).money(Money::from_micros(most));
    let cloud = Cloud::costing(1);
    let open = |most| Budget::builder(PRICE).limit(limit(most)).open(file.path()).unwrap();
    assert_eq!(
        open(MOST - 1).meter(Arc::clone(&cloud)).answer(&request()).await.unwrap_err().kind(),
        ErrorKind::Budget
    );
    open(MOST).meter(Arc::clone(&cloud)).answer(&request()).await.unwrap();
    assert_eq!(cloud.asked(), 1);
}

#[tokio::test]
async fn exchanges_side_by_side_do_not_share_what_is_left() {
    let file = File::new();
    let budget = daily(3 * MOST).open(file.path()).unwrap();
    let metered = Arc::new(budget.meter(Cloud::new(Ok(None))));
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let metered = Arc::clone(&metered);
        asking.spawn(async move { metered.answer(&request()).await.is_ok() });
    }
    let answered = asking.join_all().await.into_iter().filter(|answered| *answered).count();
    assert_eq!((answered, today(&budget)), (3, 3 * MOST));
}

#[tokio::test]
async fn what_may_have_been_billed_is_counted_at_its_most() {
    for (outcome, free, spent) in [
        (Ok(None), false, MOST),
        (Ok(Some(Tokens { input: 1_000, output: 0 })), false, 1_000),
        (Err(ErrorKind::Truncated), false, MOST),
        (Err(ErrorKind::Deadline), false, MOST),
        (Err(ErrorKind::Rejected), true, 0),
        (Err(ErrorKind::Connect), true, 0),
    ] {
        let file = File::new();
        let budget = daily(100).open(file.path()).unwrap();
        let cloud = Arc::new(Cloud { outcome, free, asked: AtomicUsize::new(0) });
        assert_eq!(budget.meter(cloud).answer(&request()).await.is_ok(), outcome.is_ok());
        assert_eq!(today(&budget), spent, "{outcome:?}");
    }
}

#[tokio::test]
async fn the_client_knows_which_failures_cost_nothing() {
    let (server, refusing) = (Server::start([]).await, refusing());
    let free = |endpoint: String, authority: Vec<u8>, attempts| {
        let retry = Retry { attempts, base: Duration::ZERO, cap: Duration::ZERO };
        let roots = Roots::Pem(authority);
        let client = CloudClient::openai(endpoint, "large").roots(roots).retry(retry).build().unwrap();
        async move { client.answer(&request()).await.unwrap_err().is_free_of_charge() }
    };
    assert!(free(format!("https://{}/v1", refusing.local_addr().unwrap()), server.authority(), 2).await);
    let stranger = Server::start([]).await;
    assert!(free(server.endpoint(), stranger.authority(), 2).await);
    let (refused, down) = (Reply::http("400 Bad Request", "", ""), Reply::http("500 Internal Server Error", "", ""));
    for (deeds, expected) in [
        (vec![refused.clone()], true),
        (vec![Reply::stall().cut_after(0), refused.clone()], false),
        (vec![down.clone(), refused], false),
        (vec![down.clone(), down], false),
    ] {
        let server = Server::start(deeds).await;
        assert_eq!(free(server.endpoint(), server.authority(), 2).await, expected);
        assert_eq!(server.left(), 0);
    }
}

#[tokio::test]
async fn a_dropped_exchange_stays_counted() {
    struct Stalled(tokio::sync::Notify);
    impl LargeModel for Stalled {
        fn answer<'a>(&'a self, _: &'a Request) -> BoxFuture<'a, Result<CloudAnswer>> {
            self.0.notify_one();
            Box::pin(std::future::pending())
        }
    }
    let file = File::new();
    let budget = daily(100).open(file.path()).unwrap();
    let stalled = Arc::new(Stalled(tokio::sync::Notify::new()));
    let metered = budget.meter(Arc::clone(&stalled));
    let request = request();
    tokio::select! {
        _ = metered.answer(&request) => unreachable!("the cloud never answers"),
        () = stalled.0.notified() => {}
    }
    assert_eq!(today(&budget), MOST);
}

#[tokio::test]
async fn classes_have_limits_of_their_own_within_the_total() {
    let file = File::new();
    let budget = daily(1_000).limit(Limit::per(Period::Month).class("chat").tokens(50)).open(file.path()).unwrap();
    let metered = budget.meter(Cloud::costing(20));
    metered.answer(&request().class("chat")).await.unwrap();
    let error = metered.answer(&request().class("chat")).await.unwrap_err();
    assert!(error.to_string().contains("class `chat` for this month"), "{error}");
    metered.answer(&request().class("mail")).await.unwrap();
    metered.answer(&request()).await.unwrap();
    let month = |class| tokens(&budget, Period::Month, class);
    assert_eq!((month(None), month(Some("chat")), month(Some("mail")), month(Some("none"))), (60, 20, 20, 0));
    let long = metered.answer(&request().class("c".repeat(65))).await.unwrap_err();
    assert_eq!(long.kind(), ErrorKind::InvalidRequest);
}

#[tokio::test]
async fn a_restart_forgets_nothing_and_a_new_period_begins_at_nothing() {
    let file = File::new();
    let calendar = Calendar::at(30); // 31 January 1970
    let open = || daily(50).clock(calendar.clone()).open(file.path()).unwrap();
    open().meter(Cloud::costing(20)).answer(&request()).await.unwrap();
    let budget = open();
    assert_eq!((today(&budget), tokens(&budget, Period::Month, None)), (20, 20));
    let metered = budget.meter(Cloud::costing(20));
    assert_eq!(metered.answer(&request()).await.unwrap_err().kind(), ErrorKind::Budget);
    calendar.set(31);
    assert_eq!((today(&budget), tokens(&budget, Period::Month, None)), (0, 0));
    metered.answer(&request()).await.unwrap();
    assert_eq!(today(&budget), 20);
}

#[tokio::test]
async fn a_clock_set_back_gives_nothing_back() {
    let file = File::new();
    let calendar = Calendar::at(100);
    let open = || daily(50).clock(calendar.clone()).open(file.path()).unwrap();
    open().meter(Cloud::costing(20)).answer(&request()).await.unwrap();
    for day in [99, 0, 100] {
        calendar.set(day);
        let budget = open();
        assert_eq!(today(&budget), 20, "{day}");
        let error = budget.meter(Cloud::costing(20)).answer(&request()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Budget, "{day}");
    }
    calendar.set(101);
    assert_eq!(today(&open()), 0);
}

#[test]
fn a_file_that_is_no_budget_is_an_error_and_stays_as_it_is() {
    let file = File::new();
    std::fs::write(file.path(), "a letter to my aunt").unwrap();
    assert_eq!(daily(1).open(file.path()).unwrap_err().kind(), ErrorKind::Store);
    assert_eq!(std::fs::read(file.path()).unwrap(), b"a letter to my aunt");

    assert_eq!(daily(1).open(Path::new("/nowhere/at/all")).unwrap_err().kind(), ErrorKind::Io);

    let file = File::new();
    let budget = daily(1).open(file.path()).unwrap();
    let error = daily(1).open(file.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Store);
    assert!(error.to_string().contains("open already"), "{error}");
    drop(budget);
    // Damage in the middle of the file.
    let mut bytes = std::fs::read(file.path()).unwrap();
    let third = bytes.len() / 3;
    bytes.truncate(third);
    std::fs::write(file.path(), bytes).unwrap();
    assert_eq!(daily(1).open(file.path()).unwrap_err().kind(), ErrorKind::Store);
}
