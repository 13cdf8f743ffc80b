//! `margay chat`: a conversation on the terminal, with the model's confidence after every answer.

use std::io::BufRead;
use std::ops::ControlFlow;
use std::path::PathBuf;

use clap::Args;
use margay::{Message, Request};

use crate::console::Console;
use crate::device::DeviceArgs;
use crate::error::{Error, Result};
use crate::generate::{SamplingArgs, in_words, of_generation};
use crate::library;

/// Longest line of a conversation, in bytes.
const MAX_LINE_BYTES: u64 = 1 << 20;

/// What `margay chat` is told.
#[derive(Debug, Clone, Args)]
pub struct ChatArgs {
    /// Folder of the bundle
    #[arg(long, value_name = "DIR")]
    pub bundle: PathBuf,
    /// Instructions that stand before the conversation
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Which threshold applies
    #[arg(long, value_name = "NAME")]
    pub task: Option<String>,
    /// Print one JSON object for each answer
    #[arg(long)]
    pub json: bool,
    /// How answers are drawn
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// What the model may use
    #[command(flatten)]
    pub device: DeviceArgs,
}

/// Answers line after line until the input ends. `/reset` begins anew, `/exit` ends.
///
/// # Errors
/// [`Error`] naming the bundle, or why a prompt cannot be answered.
pub fn chat(args: &ChatArgs, input: &mut dyn BufRead, console: &mut Console) -> Result<()> {
    console.for_programs(args.json);
    let mut aside = console.aside();
    let (bundle, engine) = library::open(&args.bundle, args.device.options(), console)?;
    let policy = bundle.policy().map(|calibrated| &calibrated.policy);
    aside.line(format!("{}: /reset begins anew, /exit ends", bundle.manifest().name))?;
    let system: Vec<Message> = args.system.iter().map(Message::system).collect();
    let mut messages = system.clone();
    while let Some(line) = next_line(input, &mut aside)? {
        match line.trim() {
            "" => continue,
            "/exit" => break,
            "/reset" => {
                messages.clone_from(&system);
                continue;
            }
            said => messages.push(Message::user(said)),
        }
        let mut request = Request::messages(messages.clone()).max_tokens(args.sampling.max_tokens);
        request.options = args.sampling.options();
        request.task.clone_from(&args.task);
        let mut broken = Ok(());
        let generation = engine.generate(&request, policy, &mut |token| {
            if !args.json {
                broken = console.piece(token.text);
            }
            if broken.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        broken?;
        console.result(&of_generation(&generation), [""])?;
        if !args.json {
            aside.line(in_words(&generation))?;
        }
        messages.push(Message::assistant(generation.text));
    }
    Ok(())
}

fn next_line(input: &mut dyn BufRead, aside: &mut Console) -> Result<Option<String>> {
    aside.piece("> ")?;
    let failed = |source| Error::Io { action: "read the conversation".into(), source };
    let mut line = String::new();
    let mut limited = std::io::Read::take(input, MAX_LINE_BYTES + 1);
    let length = limited.read_line(&mut line).map_err(failed)? as u64;
    if length > MAX_LINE_BYTES {
        return Err(Error::Usage(format!("a line has more than {MAX_LINE_BYTES} bytes")));
    }
    Ok((length > 0).then_some(line))
}
