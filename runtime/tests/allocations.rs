//! What a token costs in allocations, counted by an allocator of this program's own.
#![expect(unsafe_code, reason = "an allocator is unsafe by nature")]
#![expect(clippy::unwrap_used, reason = "a failed preparation fails the test")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ops::ControlFlow;

use common::{device, engine, fixtures};
use margay::{Bundle, DeviceOptions, Engine, GenerateOptions, Request};

struct Counting;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator as it came; the counter does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps `dealloc`'s contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What ort allocates for each run of a graph with the toy's 4 key-value outputs, the logits and the two inputs, and the
/// tokenizer for each piece of text.
const MOST_PER_TOKEN: usize = 80;

#[test]
fn a_token_costs_the_same_few_allocations_however_long_the_answer_is() {
    costs_the_same(engine());
}

/// Nobody else decodes, so this thread computes every step.
#[test]
fn a_token_of_a_batch_costs_no_more() {
    let bundle = Bundle::open(fixtures().join("toy")).unwrap();
    costs_the_same(&Engine::load(&bundle, DeviceOptions { batch: 4, ..device() }).unwrap());
}

fn costs_the_same(engine: &Engine) {
    let options = GenerateOptions { ignore_stop_tokens: true, ..GenerateOptions::default() };
    let request = Request::user("hello").max_tokens(500).options(options);
    let mut counts = Vec::with_capacity(500);
    engine
        .generate(&request, None, &mut |_| {
            counts.push(COUNT.get());
            ControlFlow::Continue(())
        })
        .unwrap();
    let per_token: Vec<usize> = counts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let mean = |counts: &[usize]| counts.iter().sum::<usize>() as f64 / counts.len() as f64;
    let (early, late) = (mean(&per_token[50..150]), mean(&per_token[350..450]));
    assert!(early <= MOST_PER_TOKEN as f64, "{early} allocations per token");
    // Texts differ from token to token; what matters is that it does not grow.
    assert!(late <= early + 2.0, "{early} per token at first, {late} later");
}
