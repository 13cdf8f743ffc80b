//! The device first, the large model when the device is unsure, streamed; with the large model out of reach, the device's
//! answer stands. The key is in `CLOUD_TOKEN`:
//!
//! ```text
//! cargo run -p margay --example cascade -- small.bundle https://llm.example.com/v1 large "wake me at six"
//! ```
use std::error::Error;
use std::io::{self, Write};
use std::time::Duration;

use margay::cloud::{CloudClient, Roots, Token, Wanted};
use margay::privacy::Patterns;
use margay::{Bundle, Cascade, Deadline, DeviceOptions, Engine, OnCloudFailure, Request, Stream, StreamEvent};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [bundle, endpoint, model, question] = &arguments[..] else {
        return Err("cascade BUNDLE ENDPOINT MODEL QUESTION".into());
    };
    let cascade = cascade(bundle, endpoint, model, std::env::var("CLOUD_TOKEN")?, Roots::Bundled)?;
    ask(&cascade, question, &mut io::stdout())
}

pub(crate) fn cascade(
    bundle: &str,
    endpoint: &str,
    model: &str,
    key: String,
    roots: Roots,
) -> Result<Cascade, Box<dyn Error>> {
    let bundle = Bundle::open(bundle)?;
    let engine = Engine::load(&bundle, DeviceOptions::default())?;
    let policy = bundle.policy().cloned().ok_or("the bundle has no policy: `margay calibrate` gives it one")?;
    let large = CloudClient::openai(endpoint, model)
        .token(move |_: Wanted| {
            let key = key.clone();
            async { Ok(Token::new(key)) }
        })
        .redactor(Patterns::built_in())
        .roots(roots)
        .build()?;
    let builder = Cascade::builder().engine(engine).policy(policy).cloud(large);
    Ok(builder.on_cloud_failure(OnCloudFailure::FallBackToLocal).build()?)
}

pub(crate) fn ask(cascade: &Cascade, question: &str, out: &mut dyn Write) -> Result<(), Box<dyn Error>> {
    let request = Request::user(question).max_tokens(64).deadline(Deadline::after(Duration::from_secs(60)));
    for event in cascade.stream_blocking(request, Stream::Optimistic)? {
        match event? {
            StreamEvent::Token { text, .. } => out.write_all(text.as_bytes())?,
            StreamEvent::Superseded { .. } => writeln!(out, " ... no, wait:")?,
            StreamEvent::Done(answer) => {
                let reason = answer.reason.map_or("sure enough", |reason| reason.as_str());
                writeln!(out, "\n[{}: {reason}]", answer.origin)?;
                if let Some(error) = answer.cloud_error {
                    writeln!(out, "[the large model: {error}]")?;
                }
            }
            _ => {}
        }
        out.flush()?;
    }
    Ok(())
}
