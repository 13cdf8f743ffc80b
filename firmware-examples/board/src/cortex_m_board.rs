//! The MPS2 board with a Cortex-M4F (AN386), as QEMU emulates it: its system timer and its serial ports.

use core::fmt;
use core::ptr::{read_volatile, write_volatile};
use core::sync::atomic::{AtomicU32, Ordering};

use cortex_m::interrupt::InterruptNumber;
use cortex_m::peripheral::syst::SystClkSource;
use cortex_m::peripheral::{NVIC, SYST};
use cortex_m_rt::{ExceptionFrame, exception};

/// The processor's clock, in ticks per millisecond.
const TICKS_PER_MS: u32 = 25_000;

/// QEMU runs with `-icount shift=0`: an instruction takes 1 ns of virtual time, a tick is 40 ns.
const INSTRUCTIONS_PER_TICK: u32 = 40;

/// Milliseconds since the clock was started. 49 days long; a real program would carry over into a second word.
static MILLISECONDS: AtomicU32 = AtomicU32::new(0);

/// The system timer, which interrupts once a millisecond.
#[derive(Clone, Copy)]
pub struct Clock(());

impl Clock {
    /// Starts the timer. `None` the second time.
    pub fn start() -> Option<Self> {
        let mut peripherals = cortex_m::Peripherals::take()?;
        // An interrupt that is pending ends a wait although interrupts are off, see `Uart::wait`.
        for uart in [Uart::CONSOLE, Uart::LINK] {
            // SAFETY: nothing here relies on these interrupts being masked; their handler masks them again.
            unsafe { NVIC::unmask(uart.interrupt) };
        }
        peripherals.SYST.set_clock_source(SystClkSource::Core);
        peripherals.SYST.set_reload(TICKS_PER_MS - 1);
        peripherals.SYST.clear_current();
        peripherals.SYST.enable_interrupt();
        peripherals.SYST.enable_counter();
        Some(Self(()))
    }

    /// Milliseconds since the start.
    pub fn now_ms(self) -> u64 {
        MILLISECONDS.load(Ordering::Relaxed).into()
    }
}

/// Ticks since the clock was started.
fn ticks() -> u32 {
    loop {
        let before = MILLISECONDS.load(Ordering::Relaxed);
        let down = SYST::get_current();
        if before == MILLISECONDS.load(Ordering::Relaxed) {
            // The interrupt comes with the zero, from which it goes on at the top.
            return before.wrapping_mul(TICKS_PER_MS).wrapping_add((TICKS_PER_MS - down) % TICKS_PER_MS);
        }
    }
}

/// How many instructions `work` takes, to within two ticks of 40, and what it returns. The clock must run.
pub fn instructions<T>(work: impl FnOnce() -> T) -> (u32, T) {
    let before = ticks();
    let result = work();
    (ticks().wrapping_sub(before).wrapping_mul(INSTRUCTIONS_PER_TICK), result)
}

#[exception]
fn SysTick() {
    MILLISECONDS.store(MILLISECONDS.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
}

/// An interrupt of a serial port: it has woken the processor, and that is all it is for.
#[exception]
unsafe fn DefaultHandler(number: i16) {
    NVIC::mask(Interrupt(number as u16));
}

#[exception]
unsafe fn HardFault(frame: &ExceptionFrame) -> ! {
    semihosting::println!("hard fault: {:?}", frame);
    crate::leave(false)
}

/// A serial port (Arm's CMSDK UART).
#[derive(Clone, Copy)]
pub struct Uart {
    base: usize,
    interrupt: Interrupt,
}

#[derive(Clone, Copy)]
struct Interrupt(u16);

// SAFETY: the numbers are those of the board's manual, and the vector table has room for 240.
unsafe impl InterruptNumber for Interrupt {
    fn number(self) -> u16 {
        self.0
    }
}

impl Uart {
    /// Where a person types: QEMU's first `-serial`.
    pub const CONSOLE: Self = Self { base: 0x4000_4000, interrupt: Interrupt(0) };
    /// The line to the gateway: QEMU's second `-serial`.
    pub const LINK: Self = Self { base: 0x4000_5000, interrupt: Interrupt(2) };

    const DATA: usize = 0x00;
    const STATE: usize = 0x04;
    const CONTROL: usize = 0x08;
    const INTERRUPT: usize = 0x0c;
    const DIVIDER: usize = 0x10;

    const TRANSMIT_FULL: u32 = 1 << 0;
    const RECEIVE_FULL: u32 = 1 << 1;

    /// Switches the port on: both directions, an interrupt for every byte received.
    pub fn open(self) -> Self {
        self.write_register(Self::DIVIDER, 217); // 25 MHz / 115 200
        self.write_register(Self::CONTROL, 0b1011);
        self
    }

    /// The next byte, if one has come.
    pub fn read(self) -> Option<u8> {
        let there = self.read_register(Self::STATE) & Self::RECEIVE_FULL != 0;
        there.then(|| self.read_register(Self::DATA) as u8)
    }

    /// Sends bytes, waiting while the line is busy.
    pub fn write(self, bytes: &[u8]) {
        for &byte in bytes {
            while self.read_register(Self::STATE) & Self::TRANSMIT_FULL != 0 {}
            self.write_register(Self::DATA, byte.into());
        }
    }

    /// Sleeps until a byte comes to one of these ports, a millisecond at most.
    pub fn wait(ports: [Self; 2]) {
        cortex_m::interrupt::free(|_| {
            for port in ports {
                port.write_register(Self::INTERRUPT, 0b10);
                // SAFETY: as in `Clock::start`.
                unsafe { NVIC::unmask(port.interrupt) };
            }
            if ports.iter().all(|port| port.read_register(Self::STATE) & Self::RECEIVE_FULL == 0) {
                cortex_m::asm::wfi();
            }
        });
    }

    fn read_register(self, offset: usize) -> u32 {
        // SAFETY: a register of this device, which the board has at this address.
        unsafe { read_volatile((self.base + offset) as *const u32) }
    }

    fn write_register(self, offset: usize, value: u32) {
        // SAFETY: as above.
        unsafe { write_volatile((self.base + offset) as *mut u32, value) }
    }
}

impl fmt::Write for Uart {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.write(text.as_bytes());
        Ok(())
    }
}
