//! Ten thousand answers are judged here, on a microcontroller, and each verdict must have the bits it has on
//! the host.
#![no_std]
#![no_main]

use core::panic::PanicInfo;

use cortex_m::peripheral::SYST;
use cortex_m::peripheral::syst::SystClkSource;
use cortex_m_rt::{ExceptionFrame, entry, exception};
use cortex_m_semihosting::debug::{EXIT_FAILURE, EXIT_SUCCESS, exit};
use cortex_m_semihosting::hprintln;
use margay_policy::{Monitor, Policy, Rule, Threshold, TokenSignals};

// The very file that the test on the host uses: it makes a stream from its number and judges it.
#[path = "../../../runtime/policy/tests/golden/streams.rs"]
mod streams;

/// The host's verdicts, in flash.
static VERDICTS: &[u8] = include_bytes!("../../../runtime/policy/tests/golden/verdicts.bin");

/// More than these are not printed: the first few tell what is wrong.
const SHOWN: u32 = 5;

#[entry]
fn main() -> ! {
    let (records, rest) = VERDICTS.as_chunks::<{ streams::RECORD }>();
    assert!(records.len() == streams::STREAMS as usize && rest.is_empty(), "the file does not belong to these streams");

    let mut differ = 0;
    for (index, host) in (0..).zip(records) {
        let here = streams::record(index);
        if here != *host {
            differ += 1;
            if differ <= SHOWN {
                hprintln!("stream {}: {:02x?} here, {:02x?} on the host", index, here, host);
            }
        }
    }
    hprintln!("{} of {} verdicts agree bit for bit", streams::STREAMS - differ, streams::STREAMS);

    if let Some(peripherals) = cortex_m::Peripherals::take() {
        let mut timer = Timer::new(peripherals.SYST);
        report_cost(&mut timer);
    }

    hprintln!("{}", if differ == 0 { "PASS" } else { "FAIL" });
    leave(differ == 0)
}

/// Prints how many instructions the policy takes for each token of an answer, and the memory it keeps meanwhile.
fn report_cost(timer: &mut Timer) {
    const TOKENS: u32 = 64;
    let logits = [0.5_f32, 3.25, -1.0, 0.0, 1.75, -2.5, 0.25, 1.0];
    let token = timer.instructions(|| TokenSignals::from_logits(&logits, 1));
    if let (instructions, Ok(signals)) = token {
        hprintln!("signals from {} logits: {} instructions", logits.len(), instructions);
        for rule in [Rule::ChowAverage, Rule::ChowSum, Rule::Minimum] {
            let policy: Policy<1> = Policy::new(rule, Threshold::KEEP_ALL);
            let mut monitor = Monitor::new(&policy, None, 2 * TOKENS);
            let (instructions, ()) = timer.instructions(|| {
                for _ in 0..TOKENS {
                    let _ = monitor.observe(signals);
                }
            });
            hprintln!("{}: {} instructions per token", rule, instructions / TOKENS);
        }
        hprintln!("a monitor takes {} bytes", size_of::<Monitor>());
    }
}

/// Counts instructions with the system timer. QEMU runs with `-icount shift=0`: an instruction takes 1 ns of
/// virtual time.
struct Timer(SYST);

impl Timer {
    /// The board's processor clock is 25 MHz, so a tick is 40 ns.
    const INSTRUCTIONS_PER_TICK: u32 = 40;
    const LARGEST: u32 = 0x00ff_ffff; // the timer has 24 bits and counts down

    fn new(mut timer: SYST) -> Self {
        timer.set_clock_source(SystClkSource::Core);
        timer.set_reload(Self::LARGEST);
        timer.clear_current();
        timer.enable_counter();
        Self(timer)
    }

    /// How many instructions `work` takes, to within a tick, and what it returns.
    fn instructions<T>(&mut self, work: impl FnOnce() -> T) -> (u32, T) {
        let before = SYST::get_current();
        let result = work();
        let ticks = before.wrapping_sub(SYST::get_current()) & Self::LARGEST;
        (ticks * Self::INSTRUCTIONS_PER_TICK, result)
    }
}

/// Ends the emulation; its exit code is QEMU's.
fn leave(success: bool) -> ! {
    exit(if success { EXIT_SUCCESS } else { EXIT_FAILURE });
    // Only reached without a debugger to end it.
    loop {
        cortex_m::asm::wfi();
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    hprintln!("{}", info);
    leave(false)
}

#[exception]
unsafe fn HardFault(frame: &ExceptionFrame) -> ! {
    hprintln!("hard fault: {:?}", frame);
    leave(false)
}
