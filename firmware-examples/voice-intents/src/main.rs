//! A voice assistant without the voice: utterances come in over the console, a classifier with 8-bit weights says what they
//! want, the policy says whether to believe it, and what it does not believe goes to a gateway over the second port.
#![no_std]
#![no_main]

mod model;

use core::fmt::{self, Write};
use core::num::{NonZeroU32, NonZeroU64};

use board::{Clock, Uart, instructions};
use heapless::Vec;
use margay_link::{Answer, Device, MAX_FRAME, MAX_TEXT, Timing};
use margay_policy::guard::{CircuitBreaker, Connectivity, Gate, PrivacyClass, TokenBucket};
use margay_policy::{Decision, Monitor, Policy, TokenSignals, Verdict};

/// Utterances that may wait for the gateway at once.
const OUTBOX: usize = 16;

/// What ends the program: Ctrl-D.
const END: u8 = 4;

/// An utterance that begins like this never leaves the device.
const PRIVATE: &str = "private: ";

board::main!(run);

fn run() -> bool {
    let (Some(clock), Some(session)) = (Clock::start(), board::random()) else { return false };
    let Ok(policy) = Policy::<1>::from_postcard(model::POLICY) else { return false };
    let mut assistant = Assistant {
        policy,
        gate: gate(),
        device: Device::new(session, Timing::default()),
        console: Uart::CONSOLE.open(),
        line: Uart::LINK.open(),
        clock,
        counts: Counts::default(),
        line_lives: false,
    };
    assistant.serve();
    assistant.report()
}

/// The outbox is for a line that comes and goes, so connectivity is never in doubt here; a question costs one unit of a
/// budget of 300 an hour, all of which may be spent at once.
fn gate() -> Gate {
    const HOUR_MS: NonZeroU64 = NonZeroU64::new(3_600_000).unwrap();
    Gate {
        connectivity: Connectivity::new(NonZeroU32::MAX, NonZeroU32::MIN, 0),
        breaker: CircuitBreaker::new(NonZeroU32::MAX, 0),
        budget: TokenBucket::new(300, 300, HOUR_MS, 0),
    }
}

struct Assistant {
    policy: Policy<1>,
    gate: Gate,
    device: Device<OUTBOX>,
    console: Uart,
    line: Uart,
    clock: Clock,
    counts: Counts,
    /// Whether anything ever came over the line: without a gateway nobody is waited for.
    line_lives: bool,
}

#[derive(Default)]
struct Counts {
    utterances: u32,
    kept: u32,
    deferred: u32,
    abstained: u32,
    /// Of classifying and deciding, over all utterances.
    instructions: u64,
    most_instructions: u32,
}

impl Assistant {
    /// Reads lines and answers until Ctrl-D, and then until nothing waits any more, if there is a gateway.
    fn serve(&mut self) {
        let mut typed: Vec<u8, MAX_TEXT> = Vec::new();
        let mut ended = false;
        while !(ended && self.device.waiting() == 0) {
            while let Some(byte) = self.console.read() {
                match byte {
                    END => ended = true,
                    b'\r' | b'\n' => {
                        self.hear(&typed);
                        typed.clear();
                    }
                    // What is too long is cut: nobody speaks for so long without a pause.
                    _ => _ = typed.push(byte),
                }
            }
            self.exchange();
            if ended && !self.line_lives && self.device.counts().repeated > 0 {
                return;
            }
            Uart::wait([self.console, self.line]);
        }
        self.exchange();
    }

    /// Decides about one utterance and prints the verdict.
    fn hear(&mut self, typed: &[u8]) {
        let Ok(text) = core::str::from_utf8(typed) else { return };
        let (text, class) = match text.strip_prefix(PRIVATE) {
            Some(text) => (text, PrivacyClass::LocalOnly),
            None => (text, PrivacyClass::MayLeave),
        };
        if text.trim().is_empty() {
            return;
        }
        let (taken, (intent, decision)) = instructions(|| classify(text, &self.policy));
        self.counts.utterances += 1;
        self.counts.instructions += u64::from(taken);
        self.counts.most_instructions = self.counts.most_instructions.max(taken);

        let number = self.counts.utterances - 1;
        let score = decision.score.map_or(f32::NAN, |score| score.value());
        let verdict = match decision.verdict {
            Verdict::Defer(_) => match self.gate.permit(class, 1, self.clock.now_ms()) {
                Ok(()) => decision.verdict,
                Err(reason) => decision.verdict.without_cloud(reason),
            },
            decided => decided,
        };
        let count = match verdict {
            Verdict::Keep => &mut self.counts.kept,
            Verdict::Defer(_) => &mut self.counts.deferred,
            Verdict::Abstain(_) => &mut self.counts.abstained,
        };
        *count += 1;
        let bits = score.to_bits();
        // The console does not fail.
        let _ = match verdict {
            Verdict::Defer(_) => match self.device.ask(text, None, self.clock.now_ms()) {
                Ok(asked) => {
                    let question = asked.number;
                    writeln!(self.console, "{number}: {verdict}, question {question} [{intent} {bits:08x}]")
                }
                Err(error) => writeln!(self.console, "{number}: {error}"),
            },
            _ => {
                let name = model::INTENTS.get(intent).copied().unwrap_or_default();
                writeln!(self.console, "{number}: {verdict}, {name}, {score:.3} nats [{intent} {bits:08x}]")
            }
        };
    }

    /// Puts on the line what is due, and prints the answers that came.
    fn exchange(&mut self) {
        let mut buffer = [0; MAX_FRAME];
        while let Some(byte) = self.line.read() {
            self.line_lives = true;
            if let Some(Answer { number, origin, text, .. }) = self.device.receive(byte, self.clock.now_ms()) {
                let _ = writeln!(self.console, "answer {number} ({origin}): {}", OneLine(text));
            }
        }
        while let Some(frame) = self.device.transmit(self.clock.now_ms(), &mut buffer) {
            self.line.write(frame);
        }
    }

    fn report(mut self) -> bool {
        let Counts { utterances, kept, deferred, abstained, instructions, most_instructions } = self.counts;
        let mean = instructions / u64::from(utterances.max(1));
        let link = self.device.counts();
        let _ =
            writeln!(self.console, "{utterances} utterances: {kept} kept, {deferred} deferred, {abstained} abstained");
        let _ = writeln!(self.console, "{mean} instructions for each, {most_instructions} at most");
        let _ = writeln!(
            self.console,
            "{} answered, {} dropped, {} waiting",
            link.answered,
            link.dropped,
            self.device.waiting()
        );
        true
    }
}

/// A text that does nothing to a terminal.
struct OneLine<'a>(&'a str);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|character| f.write_char(if character.is_control() { ' ' } else { character }))
    }
}

/// What an utterance wants, and whether to believe it: one token, whose logits are those of the intents.
fn classify(text: &str, policy: &Policy<1>) -> (usize, Decision) {
    let mut logits = [0.0; model::INTENTS.len()];
    let mut monitor = Monitor::new(policy, None, 1);
    let intent = model::CLASSIFIER.classify(text, &mut logits).unwrap_or_default();
    if let Ok(signals) = TokenSignals::from_logits(&logits, intent) {
        let _ = monitor.observe(signals);
    }
    (intent, monitor.decide())
}
