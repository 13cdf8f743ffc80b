//! `margay gateway`: answers what microcontrollers ask over a serial line, with the cascade of a `margay.toml`.
//!
//! One thread reads the line, one owns the protocol and writes, and answers are made on an asynchronous runtime.

mod answering;
mod port;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use clap::Args;
use margay::configuration::Configuration;
use margay_link::{Gateway, GatewayCounts, MAX_FRAME, Timing};
use serde_json::json;

use crate::console::Console;
use crate::error::{Error, Result};
use crate::logging::{self, LogArgs};
use crate::serve::metrics;
use crate::{config, interrupt};

use self::answering::{Answering, Question, Reply};
pub use self::port::Address;
use self::port::Port;

/// What `margay gateway` is told.
#[derive(Debug, Clone, Args)]
pub struct GatewayArgs {
    /// The line to the device: tcp:HOST:PORT, or a serial port's file
    #[arg(long, value_name = "tcp:HOST:PORT|FILE")]
    pub serial: Address,
    /// Bits per second of a serial port
    #[arg(long, value_name = "BAUD", default_value_t = 115_200)]
    pub baud: u32,
    /// The cascade and everything around it
    #[arg(long, value_name = "FILE", default_value = "margay.toml")]
    pub config: PathBuf,
    /// Longest answer, in tokens; the line carries 384 bytes of it
    #[arg(long, value_name = "N", default_value_t = 96)]
    pub max_tokens: usize,
    /// Print JSON, one object a line: questions, answers, what becomes of the line, and in the end the counts
    #[arg(long)]
    pub json: bool,
    /// What is logged
    #[command(flatten)]
    pub log: LogArgs,
}

/// What happens to the thread that owns the protocol.
enum Event {
    /// Bytes came off the line.
    Bytes(Vec<u8>),
    /// The line with this number is dead.
    Lost(u64, String),
    /// An answer is there.
    Reply(Reply),
}

/// Answers until Ctrl-C.
///
/// # Errors
/// [`Error`] naming what is wrong with the configuration or the bundle, or a serial port that cannot be opened. A line that
/// is lost later is opened again.
pub fn gateway(args: &GatewayArgs, console: &mut Console) -> Result<()> {
    let configuration = config::read(&args.config)?;
    let logging = logging::start(&args.log, Some(&configuration))?;
    metrics::install(None, logging.recorder());
    let stop = interrupt::flag()?;
    run(args, &configuration, &stop, console).map(drop)
}

/// Answers as `configuration` says until `stop` is raised, and says what happened.
///
/// # Errors
/// As [`gateway`].
pub fn run(
    args: &GatewayArgs,
    configuration: &Configuration,
    stop: &Arc<AtomicBool>,
    console: &mut Console,
) -> Result<GatewayCounts> {
    console.for_programs(args.json);
    let (events, happening) = mpsc::channel();
    let replies = events.clone();
    let answering = Answering::start(configuration, args.max_tokens, console, move |reply| {
        // The gateway may be gone: then nobody waits for the answer here.
        let _ = replies.send(Event::Reply(reply));
    })?;
    let mut line = Line::new(args, events);
    line.open(console)?;

    let mut protocol = Box::new(Gateway::<QUERIES>::new(Timing::default()));
    let origin = Instant::now();
    let now = || origin.elapsed().as_millis() as u64;
    let mut buffer = [0; MAX_FRAME];
    while !stop.load(Ordering::Relaxed) {
        line.reopen(console, || protocol.reconnect(now()))?;
        while line.is_open()
            && let Some(frame) = protocol.transmit(now(), &mut buffer)
        {
            line.write(frame, console)?;
        }
        let due = protocol
            .wake_at()
            .filter(|_| line.is_open())
            .map_or(LOOK_UP, |due| Duration::from_millis(due.saturating_sub(now())).min(LOOK_UP));
        match happening.recv_timeout(due) {
            Ok(Event::Bytes(bytes)) => {
                for byte in bytes {
                    let Some(query) = protocol.receive(byte) else { continue };
                    let question =
                        Question { id: query.id, task: query.task.map(str::to_owned), text: query.text.to_owned() };
                    let (id, bytes) = (question.id.to_string(), question.text.len());
                    let line = format!("{id}: asked, {bytes} bytes");
                    console.result(&json!({"event": "asked", "id": id, "bytes": bytes}), [line])?;
                    answering.answer(question);
                }
            }
            Ok(Event::Lost(number, why)) => line.lose(number, &why, console)?,
            Ok(Event::Reply(reply)) => {
                if protocol.answer(reply.id, reply.origin, &reply.text, now()) {
                    console.result(&reply.json(), [reply.to_string()])?;
                }
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
    }
    let counts = protocol.counts();
    let GatewayCounts { asked, received, duplicates, refused, repeated, damaged } = counts;
    let value = json!({
        "event": "ended",
        "asked": asked,
        "received": received,
        "duplicates": duplicates,
        "refused": refused,
        "repeated": repeated,
        "damaged": damaged,
    });
    let line = format!(
        "{asked} questions, {received} answers received; {duplicates} questions and {repeated} answers came again, {damaged} \
         frames were damaged"
    );
    console.result(&value, [line])?;
    Ok(counts)
}

/// Questions remembered at once.
const QUERIES: usize = 256;

/// How often it looks whether it is to stop, at least.
const LOOK_UP: Duration = Duration::from_millis(200);

/// Time until a line that cannot be opened is tried again.
const PAUSE: Duration = Duration::from_millis(250);

/// Bytes read at a time.
const CHUNK: usize = 4096;

/// The line to the device, opened again whenever it is lost.
struct Line {
    address: Address,
    baud: u32,
    events: Sender<Event>,
    port: Option<Port>,
    /// How often it was opened: what an older reader says about its end no longer matters.
    number: u64,
    next_try: Option<Instant>,
}

impl Line {
    fn new(args: &GatewayArgs, events: Sender<Event>) -> Self {
        Self { address: args.serial.clone(), baud: args.baud, events, port: None, number: 0, next_try: None }
    }

    fn is_open(&self) -> bool {
        self.port.is_some()
    }

    /// Opens it for the first time. A port's file must be there; whoever listens on TCP may come later.
    fn open(&mut self, console: &mut Console) -> Result<()> {
        let Err(source) = self.connect() else { return self.opened(console) };
        if let Address::File(path) = &self.address {
            return Err(Error::io("open", path, source));
        }
        self.next_try = Some(Instant::now() + PAUSE);
        let value = json!({"event": "closed", "line": self.address.to_string(), "why": source.to_string()});
        console.result(&value, [format!("{}: {source}; trying again", self.address)])
    }

    fn opened(&self, console: &mut Console) -> Result<()> {
        let value = json!({"event": "open", "line": self.address.to_string()});
        console.result(&value, [format!("{}: open", self.address)])
    }

    /// Opens it again if it is lost and time has passed.
    fn reopen(&mut self, console: &mut Console, greet: impl FnOnce()) -> Result<()> {
        let Some(due) = self.next_try.filter(|_| self.port.is_none()) else { return Ok(()) };
        if Instant::now() < due {
            return Ok(());
        }
        if self.connect().is_err() {
            self.next_try = Some(Instant::now() + PAUSE);
            return Ok(());
        }
        greet();
        self.opened(console)
    }

    fn connect(&mut self) -> std::io::Result<()> {
        let port = self.address.open(self.baud)?;
        let mut reader = port.share()?;
        self.number += 1;
        let (number, events) = (self.number, self.events.clone());
        std::thread::Builder::new().name("serial".into()).spawn(move || {
            let mut buffer = [0; CHUNK];
            let why = loop {
                match reader.read(&mut buffer) {
                    Ok(Some(bytes)) => {
                        if events.send(Event::Bytes(bytes.to_owned())).is_err() {
                            return;
                        }
                    }
                    Ok(None) => break "the other end hung up".to_owned(),
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(error) => break error.to_string(),
                }
            };
            let _ = events.send(Event::Lost(number, why));
        })?;
        self.port = Some(port);
        self.next_try = None;
        Ok(())
    }

    fn write(&mut self, frame: &[u8], console: &mut Console) -> Result<()> {
        let Some(port) = &mut self.port else { return Ok(()) };
        match port.write(frame) {
            Ok(()) => Ok(()),
            Err(error) => self.lose(self.number, &error.to_string(), console),
        }
    }

    fn lose(&mut self, number: u64, why: &str, console: &mut Console) -> Result<()> {
        if number != self.number || self.port.is_none() {
            return Ok(());
        }
        if let Some(port) = self.port.take() {
            port.hang_up();
        }
        self.next_try = Some(Instant::now() + PAUSE);
        let value = json!({"event": "lost", "line": self.address.to_string(), "why": why});
        console.result(&value, [format!("{}: lost, {why}", self.address)])
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(port) = &self.port {
            port.hang_up();
        }
    }
}
