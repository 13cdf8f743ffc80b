//! Ten thousand short requests from several threads, with random options, cancels and deadlines: nothing hangs, nothing panics,
//! and memory stays what it was.
#![expect(clippy::unwrap_used, reason = "a failed preparation fails the test, and a soak reports")]

mod common;

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{Expected, engine};
use margay::{
    Cancel, ChooseOptions, Deadline, ErrorKind, GenerateOptions, Message, Normalise, Overflow, Request, Sampling,
};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

const REQUESTS: usize = 10_000;
const THREADS: usize = 4;

/// Resident memory of this process now, in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

fn options(random: &mut ChaCha8Rng) -> GenerateOptions {
    let mut pick = |of: u32| random.next_u32() % of;
    GenerateOptions {
        sampling: Sampling {
            temperature: [0.0, 0.7, 1.3][pick(3) as usize],
            top_k: [None, Some(1 + pick(40) as usize)][pick(2) as usize],
            top_p: [None, Some(0.9)][pick(2) as usize],
            min_p: [None, Some(0.05)][pick(2) as usize],
            repetition_penalty: [1.0, 1.2][pick(2) as usize],
            seed: [None, Some(u64::from(pick(1000)))][pick(2) as usize],
        },
        stop: if pick(3) == 0 { vec!["sic".into(), "d".into()] } else { Vec::new() },
        overflow: if pick(4) == 0 { Overflow::Slide { keep: 4 } } else { Overflow::Error },
        ignore_stop_tokens: pick(2) == 0,
        raw_prompt: pick(4) == 0,
        alternatives: [0, 3][pick(2) as usize],
        constraint: None,
    }
}

/// One request; what it ended with is its own affair, as long as it ends and the error is one of those it asked for.
fn one(random: &mut ChaCha8Rng) {
    let mut pick = |of: u32| random.next_u32() % of;
    let words = "play some music what is the weather ".repeat(1 + pick(6) as usize);
    let messages = vec![Message::system(["be brief", &words][pick(2) as usize]), Message::user(&words[..9])];
    let cancel = Cancel::default();
    let cancel_at = if pick(3) == 0 { pick(12) as usize } else { usize::MAX };
    let deadline = match pick(4) {
        0 => Deadline::after(Duration::from_micros(u64::from(pick(3000)))),
        _ => Deadline::NEVER,
    };
    let tokens = if pick(200) == 0 { 900 } else { 1 + pick(12) as usize };
    let choose = pick(5) == 0;
    let request = Request::messages(messages)
        .max_tokens(tokens)
        .options(options(random))
        .cancel(cancel.clone())
        .deadline(deadline);
    if cancel_at == 0 {
        cancel.cancel();
    }
    let error = if choose {
        let options = ChooseOptions { normalise: Normalise::Bytes, with_stop_token: true };
        engine().choose(&request, &["yes", "no", "weather"], &options, None).err()
    } else {
        let mut written = 0;
        let generated = engine().generate(&request, None, &mut |_| {
            written += 1;
            if written == cancel_at {
                cancel.cancel();
            }
            ControlFlow::Continue(())
        });
        generated.err()
    };
    if let Some(error) = error {
        use ErrorKind::{Cancelled, ContextOverflow, Deadline};
        assert!(matches!(error.kind(), Cancelled | ContextOverflow | Deadline), "{error:?}");
    }
}

#[test]
#[ignore = "some minutes"]
fn ten_thousand_requests_leave_memory_as_it_was() {
    let done = AtomicUsize::new(0);
    let run = |count: usize, seed: u64| {
        std::thread::scope(|scope| {
            for thread in 0..THREADS as u64 {
                let done = &done;
                scope.spawn(move || {
                    let mut random = ChaCha8Rng::seed_from_u64(seed + thread);
                    for _ in 0..count / THREADS {
                        one(&mut random);
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
    };
    run(REQUESTS / 10, 100);
    let warm = resident();
    run(REQUESTS, 200);
    let after = resident();
    eprintln!("{} requests; resident {warm} bytes when warm, {after} after them", done.load(Ordering::Relaxed));
    assert!(after < warm + (16 << 20), "memory grew from {warm} to {after} bytes");
    // And the model answers as it did.
    let expected = Expected::read();
    let request = Request::messages(expected.messages).max_tokens(expected.greedy.len());
    let generation = engine().generate(&request, None, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(generation.token_ids, expected.greedy);
}
