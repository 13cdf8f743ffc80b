//! A process that queues, sends, pays and delivers, killed at random points: nothing is lost, nothing delivered twice.
//!
//! `MARGAY_KILLS=200 cargo test -p margay --test cloud kill` kills it so many times; 8 unless said.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use margay::cloud::{BoxFuture, CloudAnswer, LargeModel};
use margay::stores::{Budget, Limit, Metered, Outbox, Outcome, Period, Price};
use margay::{Request, Result, Ticket, Tokens};

use crate::calendar::Calendar;

/// Where the child finds the stores.
const FOLDER: &str = "MARGAY_KILL_FOLDER";

/// The number of its first prompt.
const FIRST: &str = "MARGAY_KILL_FIRST";

/// Tokens, and micro-units, of one exchange.
const COST: u64 = 5;

/// The most that one of these prompts can cost: up to 8 bytes of text, 32 of template, 4 of answer.
const MOST: u64 = 44;

/// About as long as the child does one thing to its stores, in microseconds.
const LONGEST_STEP_US: u64 = 8_000;

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n@{line}").unwrap();
    out.flush().unwrap();
}

/// A cloud that says aloud what it is asked.
struct Aloud;

impl LargeModel for Aloud {
    fn answer<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<CloudAnswer>> {
        Box::pin(async move {
            let text = &request.messages[0].content;
            say(&format!("asked {text} {}", request.idempotency_key.as_deref().unwrap()));
            let mut answer = CloudAnswer::new(format!("re-{text}"));
            answer.usage = Some(Tokens { input: COST - 1, output: 1 });
            Ok(answer)
        })
    }
}

fn open(folder: &Path) -> (Outbox, Budget, Metered<Aloud>) {
    let budget = Budget::builder(Price { input: 1_000_000, output: 1_000_000 })
        .limit(Limit::per(Period::Day).tokens(u64::MAX))
        .clock(Calendar::at(7))
        .open(folder.join("budget.redb"))
        .unwrap();
    let outbox = Outbox::builder().max_entries(u64::MAX).open(folder.join("outbox.redb")).unwrap();
    let cloud = budget.meter(Aloud);
    (outbox, budget, cloud)
}

/// Hands out every result there is, and acknowledges it.
async fn deliver(outbox: &Outbox) {
    while let Some((ticket, outcome)) = outbox.next_result().await.unwrap() {
        let Outcome::Answered { text, .. } = outcome else { unreachable!("every prompt is answered") };
        say(&format!("got {} {text}", ticket.number()));
        assert!(outbox.acknowledge(ticket).await.unwrap());
        say(&format!("acknowledged {}", ticket.number()));
    }
}

#[tokio::test]
#[ignore = "the process that is killed; started by the test below"]
async fn child() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let (outbox, _budget, cloud) = open(Path::new(&folder));
    let mut number: u64 = std::env::var(FIRST).unwrap().parse().unwrap();
    loop {
        for _ in 0..3 {
            let ticket = outbox.put(&Request::user(format!("p{number}")).max_tokens(4)).await.unwrap();
            say(&format!("queued {} p{number}", ticket.number()));
            number += 1;
        }
        assert!(outbox.drain(&cloud).await.unwrap().stopped.is_none());
        deliver(&outbox).await;
    }
}

/// What all processes together have said.
#[derive(Default)]
struct History {
    queued: BTreeMap<u64, String>,
    keys: BTreeMap<String, String>,
    asked: u64,
    got: BTreeMap<u64, String>,
    acknowledged: BTreeSet<u64>,
}

impl History {
    fn note(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["queued", ticket, prompt] => {
                assert_eq!(self.queued.insert(ticket.parse().unwrap(), prompt.into()), None);
            }
            ["asked", prompt, key] => {
                self.asked += 1;
                let before = self.keys.insert(prompt.into(), key.into());
                assert!(before.is_none_or(|before| before == key), "{prompt} was sent under two keys");
            }
            ["got", ticket, text] => {
                let ticket = ticket.parse().unwrap();
                assert!(!self.acknowledged.contains(&ticket), "{ticket} was delivered after it was acknowledged");
                let before = self.got.insert(ticket, text.into());
                assert!(before.is_none_or(|before| before == text), "{ticket} has two results");
            }
            ["acknowledged", ticket] => {
                assert!(self.acknowledged.insert(ticket.parse().unwrap()));
            }
            _ => unreachable!("{line}"),
        }
    }
}

/// Runs the child until it has said `lines` lines and `after` has passed, kills it, and notes all that it said.
fn run(folder: &Path, first: u64, (lines, after): (usize, Duration), history: &mut History) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["kill::child", "--exact", "--ignored", "--nocapture"])
        .env(FOLDER, folder)
        .env(FIRST, first.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let mut said = 0;
    for line in out.split(b'\n') {
        let line = String::from_utf8(line.unwrap()).unwrap();
        if let Some(line) = line.strip_prefix('@') {
            history.note(line);
            said += 1;
            if said == lines {
                // Not to wait for anything: to strike between two lines too, wherever the child is then.
                std::thread::sleep(after);
                child.kill().unwrap();
            }
        }
    }
    assert!(!child.wait().unwrap().success());
    assert!(said >= lines, "the child ended by itself after {said} lines");
}

#[tokio::test]
async fn killed_at_any_point_it_loses_nothing_and_delivers_nothing_twice() {
    let kills: u64 = std::env::var("MARGAY_KILLS").map_or(8, |kills| kills.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let mut history = History::default();
    let mut random: u64 = 1;
    for kill in 0..kills {
        // Knuth's MMIX generator; a round of three prompts says twelve lines.
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let lines = 1 + (random >> 33) as usize % 40;
        let after = Duration::from_micros((random >> 20) % LONGEST_STEP_US);
        run(folder.path(), kill * 10_000, (lines, after), &mut history);
    }
    let History { queued, keys, asked, mut got, acknowledged } = history;
    let (outbox, budget, cloud) = open(folder.path());
    // What was asked is paid for: the last exchange of each life at its most, if it was not settled.
    let spent = budget.spent(Period::Day, None).unwrap().tokens;
    assert!((asked * COST..=asked * COST + kills * (MOST - COST) + kills * MOST).contains(&spent), "{asked}: {spent}");

    assert!(outbox.drain(&cloud).await.unwrap().stopped.is_none());
    while let Some((ticket, outcome)) = outbox.next_result().await.unwrap() {
        let Outcome::Answered { text, .. } = outcome else { unreachable!("every prompt is answered") };
        assert!(!acknowledged.contains(&ticket.number()), "{ticket:?} was delivered after it was acknowledged");
        let before = got.insert(ticket.number(), text.clone());
        assert!(before.is_none_or(|before| before == text));
        assert!(outbox.acknowledge(ticket).await.unwrap());
    }
    for (ticket, prompt) in &queued {
        assert_eq!(got.get(ticket), Some(&format!("re-{prompt}")), "{prompt} was lost");
        assert!(!outbox.acknowledge(Ticket::new(*ticket)).await.unwrap());
    }
    // A prompt whose queueing was cut may be there or not, but once only.
    let texts: BTreeSet<&String> = got.values().collect();
    assert_eq!(texts.len(), got.len());
    assert_eq!(keys.values().collect::<BTreeSet<_>>().len(), keys.len(), "two prompts share a key");
    assert!(got.len() >= queued.len() && got.len() as u64 <= queued.len() as u64 + kills);
}
