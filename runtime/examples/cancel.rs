//! A query that is stopped from another thread, here by whoever presses Enter:
//!
//! ```text
//! cargo run -p margay --example cancel -- small.bundle "tell me a long story"
//! ```
use std::error::Error;
use std::io::{self, BufRead, Write};
use std::ops::ControlFlow;

use margay::{Bundle, Cancel, DeviceOptions, Engine, Request};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(bundle), Some(question)) = (arguments.next(), arguments.next()) else {
        return Err("cancel BUNDLE QUESTION".into());
    };
    tell(&bundle, &question, io::BufReader::new(io::stdin()), &mut io::stdout())
}

pub(crate) fn tell(
    bundle: &str,
    question: &str,
    mut input: impl BufRead + Send + 'static,
    out: &mut dyn Write,
) -> Result<(), Box<dyn Error>> {
    let engine = Engine::load(&Bundle::open(bundle)?, DeviceOptions::default())?;
    let cancel = Cancel::default();
    let stopping = cancel.clone();
    std::thread::spawn(move || {
        // The end of the input is no wish to stop.
        if input.read_line(&mut String::new()).is_ok_and(|read| read > 0) {
            stopping.cancel();
        }
    });
    let request = Request::user(question).max_tokens(512).cancel(cancel);
    let told = engine.generate(&request, None, &mut |token| match out
        .write_all(token.text.as_bytes())
        .and_then(|()| out.flush())
    {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    });
    match told {
        Err(error) if error.is_cancelled() => writeln!(out, "\n[stopped]")?,
        told => writeln!(out, "\n[{} tokens]", told?.token_ids.len())?,
    }
    Ok(())
}
