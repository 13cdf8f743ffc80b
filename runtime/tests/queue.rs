//! Requests of several threads: turns in order, a bounded queue, and leaving it.
#![expect(clippy::unwrap_used, reason = "a failed preparation fails the test")]

mod common;

use std::ops::ControlFlow;
use std::sync::mpsc;
use std::thread;

use common::{fixtures, library};
use margay::{Bundle, Cancel, DeviceOptions, Engine, ErrorKind, Finish, GenerateOptions, Request};

fn engine(queue: usize) -> Engine {
    let options = DeviceOptions { threads: Some(1), library: Some(library()), queue, ..DeviceOptions::default() };
    Engine::load(&Bundle::open(fixtures().join("toy")).unwrap(), options).unwrap()
}

fn request() -> Request {
    let options = GenerateOptions { ignore_stop_tokens: true, ..GenerateOptions::default() };
    Request::user("hello").max_tokens(2).options(options)
}

fn until_waiting(engine: &Engine, count: usize) {
    while engine.waiting() != count {
        thread::yield_now();
    }
}

#[test]
fn a_full_queue_is_an_error_and_turns_come_in_order() {
    let engine = engine(2);
    let request = request();
    let (entered, at_work) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let (done, order) = mpsc::channel();
    thread::scope(|scope| {
        let (engine, request) = (&engine, &request);
        let (first_done, mut held) = (done.clone(), Some(released));
        scope.spawn(move || {
            let generation = engine.generate(request, None, &mut |_| {
                if let Some(released) = held.take() {
                    entered.send(()).unwrap();
                    released.recv().unwrap();
                }
                ControlFlow::Continue(())
            });
            assert_eq!(generation.unwrap().finish, Finish::Length);
            first_done.send(0).unwrap();
        });
        at_work.recv().unwrap();
        for number in 1..=2 {
            let done = done.clone();
            scope.spawn(move || {
                // Sent within the turn, so in the order of turns.
                let generation = engine.generate(request, None, &mut |_| {
                    done.send(number).unwrap();
                    ControlFlow::Break(())
                });
                assert_eq!(generation.unwrap().finish, Finish::Caller);
            });
            until_waiting(engine, number);
        }
        let full = engine.generate(request, None, &mut |_| ControlFlow::Continue(())).unwrap_err();
        assert_eq!(full.kind(), ErrorKind::QueueFull);
        release.send(()).unwrap();
    });
    drop(done);
    let order: Vec<usize> = order.iter().collect();
    assert!(order.iter().position(|number| *number == 1) < order.iter().position(|number| *number == 2), "{order:?}");
    assert_eq!((order.len(), engine.waiting()), (3, 0));
}

#[test]
fn who_cancels_leaves_the_queue_at_once() {
    let engine = engine(2);
    let request = request();
    let (entered, at_work) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let (engine, request, mut held) = (&engine, &request, Some(released));
        scope.spawn(move || {
            engine.generate(request, None, &mut |_| {
                if let Some(released) = held.take() {
                    entered.send(()).unwrap();
                    released.recv().unwrap();
                }
                ControlFlow::Continue(())
            })
        });
        at_work.recv().unwrap();
        let cancel = Cancel::default();
        let waiting = {
            let request = request.clone().cancel(cancel.clone());
            scope.spawn(move || engine.generate(&request, None, &mut |_| ControlFlow::Continue(())))
        };
        until_waiting(engine, 1);
        cancel.cancel();
        // The first still has its turn: only leaving the queue can end the second.
        assert_eq!(waiting.join().unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
        assert_eq!(engine.waiting(), 0);
        release.send(()).unwrap();
    });
}
