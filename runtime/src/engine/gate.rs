//! What several share and one has at a time: who asks first is served first.
//!
//! A mutex lets whoever is running take it again and again; here the next piece of a long prompt waits behind a decode step.

use std::sync::{Condvar, Mutex, PoisonError};

/// A value that is lent to one after the other, in the order of asking.
pub(super) struct Gate<T> {
    value: Mutex<T>,
    line: Mutex<Line>,
    moved: Condvar,
}

/// Numbers of those who asked.
#[derive(Debug, Default)]
struct Line {
    /// Of whoever asks next.
    next: u64,
    /// Of whoever has the value, or may take it.
    served: u64,
}

impl<T> Gate<T> {
    pub(super) fn new(value: T) -> Self {
        Self { value: Mutex::new(value), line: Mutex::default(), moved: Condvar::new() }
    }

    /// Calls `work` with the value, after everybody who asked before.
    pub(super) fn run<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        let number = line.next;
        line.next += 1;
        while line.served != number {
            line = self.moved.wait(line).unwrap_or_else(PoisonError::into_inner);
        }
        drop(line);
        // The next one is let in even if the work panics.
        let _served = Served(self);
        let mut value = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        work(&mut value)
    }

    /// How many have it or wait for it.
    #[cfg(test)]
    fn asked(&self) -> u64 {
        let line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        line.next - line.served
    }
}

struct Served<'a, T>(&'a Gate<T>);

impl<T> Drop for Served<'_, T> {
    fn drop(&mut self) {
        self.0.line.lock().unwrap_or_else(PoisonError::into_inner).served += 1;
        self.0.moved.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    #[test]
    fn who_asks_first_is_served_first_even_behind_one_who_asks_again_at_once() {
        let gate = Gate::new(Vec::new());
        let (release, released) = mpsc::channel::<()>();
        let (gate, asked) = (&gate, |count| {
            while gate.asked() != count {
                thread::yield_now();
            }
        });
        thread::scope(|scope| {
            scope.spawn(move || {
                gate.run(|order| {
                    released.recv().unwrap();
                    order.push(0);
                });
                gate.run(|order| order.push(9));
            });
            asked(1);
            for number in 1..4 {
                scope.spawn(move || gate.run(|order| order.push(number)));
                asked(number + 1);
            }
            release.send(()).unwrap();
        });
        assert_eq!(gate.run(|order| order.clone()), [0, 1, 2, 3, 9]);
    }

    #[test]
    fn a_panic_lets_the_next_one_in() {
        let gate = Gate::new(1);
        assert!(catch_unwind(AssertUnwindSafe(|| gate.run(|_| panic!("on purpose")))).is_err());
        assert_eq!(gate.run(|value| *value), 1);
    }
}
