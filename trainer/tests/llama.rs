//! llama.cpp's real server against the same checkpoint here: top-1 hits must agree for 99 % of the target tokens.
#![expect(clippy::panic, reason = "a failed preparation fails the test")]

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use margay_trainer::annotate::endpoint::{Asked, Endpoint, EndpointOptions, Price, Retry, ServerKind};
use margay_trainer::data::{Corpus, EncodedCorpus, PromptFormat, PromptStyle, Rows, Source};
use margay_trainer::recipe::BadRows;
use margay_trainer::{Checkpoint, Device, Journal, LocalTeacher};

const CONTEXT: usize = 512;

fn setting(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"))
}

/// `MARGAY_LLAMA_URL` is a running llama-server with the model of the folder `MARGAY_CHECKPOINT` in full precision,
/// `MARGAY_ROWS` a file of task rows.
#[test]
#[ignore = "needs a running llama-server, see CONTRIBUTING.md"]
fn llama_cpp_and_the_checkpoint_agree_on_hits() {
    let checkpoint = Checkpoint::open(&PathBuf::from(setting("MARGAY_CHECKPOINT"))).unwrap();
    let format = PromptFormat::of(&checkpoint, PromptStyle::Chat, None).unwrap();
    let source = Source { cap: Some(40), ..Source::new(setting("MARGAY_ROWS")) };
    let corpus = Corpus::index(&[source], 0.0, BadRows::Refuse).unwrap().train;
    let options = EndpointOptions {
        url: setting("MARGAY_LLAMA_URL"),
        model: String::new(),
        kind: None,
        key: None,
        in_flight: 1,
        top_k: 4,
        answers: false,
        price: Price::default(),
        most: None,
        retry: Retry::default(),
        timeout: Duration::from_secs(120),
    };
    let endpoint = Endpoint::find(options, &format).unwrap();
    assert!(endpoint.kind() == ServerKind::LlamaCpp && endpoint.shares_vocabulary());
    let folder = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(&folder.path().join("cache"), &endpoint.info(&format).unwrap(), "llama").unwrap();
    let asked = Asked { corpora: vec![&corpus], small: &format, large: &format, context: CONTEXT, skip: false };
    endpoint.annotate(&asked, &mut journal, &AtomicBool::new(false), &mut |_, _| {}).unwrap();
    let there = journal.finish().unwrap();

    let device = Device::flex();
    let teacher = LocalTeacher::new(&checkpoint.model(&device).unwrap(), 4, &device).unwrap();
    let encoded = EncodedCorpus { corpus: &corpus, format: &format, context: CONTEXT };
    let (mut same, mut tokens) = (0, 0);
    for row in 0..corpus.len() {
        let row = encoded.encoded(row).unwrap();
        let here = teacher.annotate(std::slice::from_ref(&row)).pop().unwrap();
        let hits = there.batch(std::slice::from_ref(&row)).unwrap().hits;
        same += here.hits.iter().zip(&hits).filter(|(a, b)| a == b).count();
        tokens += hits.len();
    }
    println!("top-1 hits agree for {same} of {tokens} target tokens");
    assert!(same * 100 >= tokens * 99, "{same} of {tokens}");
}
