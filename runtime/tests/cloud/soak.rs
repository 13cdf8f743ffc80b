//! Many requests against a cloud that fails in every way at once: each ends by its deadline, and nothing piles up.
//!
//! `MARGAY_SOAK=50000 cargo test --release -p margay --features stores --test cloud soak -- --ignored --nocapture`

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use margay::cloud::{CloudClient, Retry, Roots};
use margay::policy::Threshold;
use margay::testing::{FaultyServer, Reply};
use margay::{Deadline, OnCloudFailure, Origin, Stream, StreamEvent};

use crate::cascade::{builder, request};

/// Requests under way at the same time.
const AT_ONCE: usize = 16;

/// The deadline of each.
const DEADLINE: Duration = Duration::from_millis(500);

/// How much later than a bare timer of the same runtime one may be. A decode step of the toy takes microseconds; the timer
/// tells what the machine's other work costs.
const GRACE: Duration = Duration::from_millis(250);

/// Memory that may be gained between a tenth of the way and its end, in bytes.
const GROWTH: u64 = 8 << 20;

/// Resident memory of this process, in bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or_default() * 4096
}

/// What the server does with a request, by its number: two thirds are served, the rest fail in nine ways.
fn deed(number: usize) -> Reply {
    // Knuth's MMIX generator.
    let random = (number as u64).wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407) >> 33;
    let streams = || Reply::streams(&["book ", "a ", "flight"]);
    match random % 100 {
        0..40 => Reply::says("book a flight"),
        40..66 => streams(),
        66..70 => Reply::status("500 Internal Server Error"),
        70..75 => Reply::http("429 Too Many Requests", "retry-after: 0\r\n", ""),
        75..80 => streams().cut_after((random / 100) as usize % 400),
        80..85 => Reply::says("book a flight").reset_after((random / 100) as usize % 200),
        85..88 => streams().stall_after((random / 100) as usize % 400),
        88..90 => Reply::stall(),
        90..93 => Reply::says("book a flight").corrupt((random / 100) as usize % 200),
        93..96 => Reply::raw("SSH-2.0-OpenSSH_9.6\r\n\r\n").cut_after(99),
        _ => streams().pieces(3).delayed(Duration::from_millis(random / 100 % 700)),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes; counts real time and memory"]
async fn every_request_ends_by_its_deadline_and_memory_stays_flat() {
    let requests: usize = std::env::var("MARGAY_SOAK").map_or(50_000, |count| count.parse().unwrap());
    let server = FaultyServer::start([]).await;
    server.reply_by(deed);
    let retry = Retry { attempts: 3, base: Duration::from_millis(5), cap: Duration::from_millis(50) };
    let client = CloudClient::openai(server.endpoint(), "large").roots(Roots::Pem(server.authority())).retry(retry);
    let cascade = builder(Threshold::DEFER_ALL, client.build().unwrap())
        .breaker(50.try_into().unwrap(), Duration::from_millis(20))
        .on_cloud_failure(OnCloudFailure::FallBackToLocal)
        .build()
        .unwrap();
    let (next, latest) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicU64::new(0)));
    let ends: Arc<[AtomicUsize; 4]> = Arc::default();
    let timer = Arc::new(AtomicU64::new(0));
    let late = Arc::clone(&timer);
    let timing = tokio::spawn(async move {
        loop {
            let due = Instant::now() + Duration::from_millis(10);
            tokio::time::sleep_until(due.into()).await;
            late.fetch_max(due.elapsed().as_micros() as u64, Ordering::Relaxed);
        }
    });
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..AT_ONCE {
        let (cascade, next, latest, ends) =
            (cascade.clone(), Arc::clone(&next), Arc::clone(&latest), Arc::clone(&ends));
        workers.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= requests {
                    return;
                }
                let begun = Instant::now();
                let request = request().deadline(Deadline::after(DEADLINE));
                let end = match number % 3 {
                    0 => cascade.answer(request).await,
                    mode => {
                        let mode = if mode == 1 { Stream::Hold } else { Stream::Optimistic };
                        let mut stream = cascade.stream(request, mode);
                        loop {
                            match stream.next().await.unwrap() {
                                Ok(StreamEvent::Done(answer)) => break Ok(*answer),
                                Ok(_) => {}
                                Err(error) => break Err(error),
                            }
                        }
                    }
                };
                latest.fetch_max(begun.elapsed().as_micros() as u64, Ordering::Relaxed);
                let end = match end {
                    Ok(answer) if answer.origin == Origin::Cloud => 0,
                    Ok(_) => 1,
                    Err(error) if error.partial_text().is_some() => 2,
                    Err(error) => {
                        assert!(error.is_deadline(), "{error:?}");
                        3
                    }
                };
                ends[end].fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    while next.load(Ordering::Relaxed) < requests / 10 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let early = resident();
    while let Some(worker) = workers.join_next().await {
        worker.unwrap();
    }
    timing.abort();
    let (latest, late) = (Duration::from_micros(latest.load(Ordering::Relaxed)), resident());
    let timer = Duration::from_micros(timer.load(Ordering::Relaxed));
    let [cloud, local, cut, deadline] = [0, 1, 2, 3].map(|end| ends[end].load(Ordering::Relaxed));
    eprintln!(
        "{requests} requests: {cloud} from the cloud, {local} from the device, {cut} cut in mid-answer, {deadline} at the \
         deadline; {} exchanges on {} connections; the latest after {latest:?} of {DEADLINE:?}, a bare timer {timer:?} late; memory {} MiB after a \
         tenth, {} MiB at the end",
        server.requests(),
        server.connections(),
        early >> 20,
        late >> 20,
    );
    assert_eq!(cloud + local + cut + deadline, requests);
    assert!(latest <= DEADLINE + timer + GRACE, "{latest:?}");
    assert!(late <= early + GROWTH, "{early} bytes, then {late}");
}
