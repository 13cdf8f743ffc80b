//! A hundred questions to a gateway, over a serial line that loses, damages, repeats and reorders: each must be answered
//! once, and in its own words.
#![no_std]
#![no_main]

use core::fmt::Write;

use board::{Clock, Uart, println};
use margay_link::{Device, MAX_FRAME, Timing};

/// How many questions are asked.
const QUESTIONS: u32 = 100;

/// Questions that may wait at once.
const OUTBOX: usize = 8;

/// Virtual milliseconds after which whoever still waits has been forgotten.
const PATIENCE_MS: u64 = 120_000;

board::main!(run);

fn run() -> bool {
    let (Some(clock), Some(session)) = (Clock::start(), board::random()) else { return false };
    let line = Uart::LINK.open();
    let timing = Timing { first_ms: 50, longest_ms: 1_000, ..Timing::default() };
    let mut device = Device::<OUTBOX>::new(session, timing);
    let mut buffer = [0; MAX_FRAME];
    let mut wrong = 0;

    while device.counts().answered < QUESTIONS && clock.now_ms() < PATIENCE_MS {
        // Never more than there is room for, so that nothing is dropped.
        while device.counts().asked < QUESTIONS && device.waiting() < OUTBOX {
            let question = Question(device.counts().asked);
            let mut text = Text::new();
            if write!(text, "{question}").is_err() || device.ask(text.as_str(), None, clock.now_ms()).is_err() {
                return false;
            }
        }
        while let Some(frame) = device.transmit(clock.now_ms(), &mut buffer) {
            line.write(frame);
        }
        while let Some(byte) = line.read() {
            if let Some(answer) = device.receive(byte, clock.now_ms()) {
                let mut expected = Text::new();
                let right = write!(expected, "{}", Question(answer.number)).is_ok() && answer.text == expected.as_str();
                wrong += u32::from(!right);
            }
        }
        Uart::wait([line, line]);
    }
    // The last receipts, so that the gateway is not left waiting.
    while let Some(frame) = device.transmit(clock.now_ms(), &mut buffer) {
        line.write(frame);
    }

    println!("{:?}", device.counts());
    println!("a device with room for {} questions takes {} bytes", OUTBOX, size_of::<Device<OUTBOX>>());
    let counts = device.counts();
    let success = counts.answered == QUESTIONS && counts.dropped == 0 && wrong == 0;
    println!("{}", if success { "PASS" } else { "FAIL" });
    success
}

/// The words of question `n`, with a zero among them, which frames must hide.
struct Question(u32);

impl core::fmt::Display for Question {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "what is {}\0 times {}?", self.0, self.0 + 7)
    }
}

/// A short text on the stack.
type Text = heapless::String<64>;
