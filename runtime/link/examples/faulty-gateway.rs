//! Stands in for a gateway on a line that loses, damages, repeats and reorders: answers every question with its own words.
//!
//! `cargo run -p margay-link --example faulty-gateway [SEED]` prints the address it listens on and serves one device until
//! that hangs up.

#[path = "../tests/faults/wire.rs"]
mod wire;

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use margay_link::{Gateway, MAX_FRAME, Origin, QueryId, Timing};
use wire::Wire;

/// Share of frames that something happens to, in each direction.
const FAULTS: f64 = 0.3;

fn main() -> io::Result<()> {
    let seed = std::env::args().nth(1).and_then(|seed| seed.parse().ok()).unwrap_or(7);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    writeln!(io::stdout(), "{}", listener.local_addr()?)?;
    io::stdout().flush()?;
    let (stream, _) = listener.accept()?;
    serve(stream, seed)
}

fn serve(mut stream: TcpStream, seed: u64) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_millis(10)))?;
    let (mut up, mut down) = (Wire::new(seed, FAULTS), Wire::new(seed + 1, FAULTS));
    let mut gateway = Gateway::<64>::new(Timing { first_ms: 50, ..Timing::default() });
    let started = Instant::now();
    let now = || started.elapsed().as_millis() as u64;
    let (mut buffer, mut bytes) = ([0; MAX_FRAME], [0; 1024]);
    let mut frame = Vec::new();
    loop {
        let length = match stream.read(&mut bytes) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => 0,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break,
            Err(error) => return Err(error),
        };
        let mut asked: Vec<(QueryId, String)> = Vec::new();
        for &byte in &bytes[..length] {
            frame.push(byte);
            if byte == 0 {
                for byte in up.carry(&frame) {
                    asked.extend(gateway.receive(byte).map(|query| (query.id, query.text.to_owned())));
                }
                frame.clear();
            }
        }
        for (id, text) in asked {
            gateway.answer(id, Origin::Cloud, &text, now());
        }
        while let Some(frame) = gateway.transmit(now(), &mut buffer) {
            stream.write_all(&down.carry(frame))?;
        }
    }
    let (faults, counts) = (up.counts.total() + down.counts.total(), gateway.counts());
    writeln!(io::stdout(), "something happened to {faults} frames; {counts:?}")
}
