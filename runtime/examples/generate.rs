//! An answer of the device alone, each token as it comes, and what the bundle's policy says of it:
//!
//! ```text
//! cargo run -p margay --example generate -- small.bundle "wake me at six"
//! ```
use std::error::Error;
use std::io::{self, Write};
use std::ops::ControlFlow;

use margay::{Bundle, DeviceOptions, Engine, Request};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(bundle), Some(question)) = (arguments.next(), arguments.next()) else {
        return Err("generate BUNDLE QUESTION".into());
    };
    generate(&bundle, &question, &mut io::stdout())
}

pub(crate) fn generate(bundle: &str, question: &str, out: &mut dyn Write) -> Result<(), Box<dyn Error>> {
    let bundle = Bundle::open(bundle)?;
    let engine = Engine::load(&bundle, DeviceOptions::default())?;
    let policy = bundle.policy().map(|calibrated| &calibrated.policy);
    let request = Request::user(question).max_tokens(64);
    let generation = engine.generate(&request, policy, &mut |token| {
        // A reader that is gone is no reason to go on.
        match out.write_all(token.text.as_bytes()).and_then(|()| out.flush()) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    })?;
    let (tokens, finish) = (generation.token_ids.len(), generation.finish.name());
    match generation.decision {
        Some(decision) => writeln!(out, "\n[{tokens} tokens, {finish}; {}]", decision.verdict)?,
        None => writeln!(out, "\n[{tokens} tokens, {finish}; the bundle has no policy]")?,
    }
    Ok(())
}
