//! A microcontroller, a gateway and a cloud: an emulated Cortex-M with its serial port on a socket, `margay gateway` with a
//! cascade from a `margay.toml`, and the demonstration's HTTPS server. Utterances are typed in, verdicts and answers come
//! back, the line is cut in the middle, and nothing is lost.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a failed preparation fails the test")]

mod board;
mod wire;

// The very module that lies in the device's flash.
#[expect(unreachable_pub, reason = "it is made for programs of any shape")]
#[path = "../../../firmware-examples/voice-intents/src/model/mod.rs"]
mod model;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use board::{Board, Said};
use margay::bundle::{CalibratedPolicy, Calibration};
use margay::cloud::{BoxFuture, CloudAnswer, LargeModel};
use margay::device::library::Locate;
use margay::policy::{Aggregate, Monitor, Policy, Rule, Threshold, TokenSignals, Verdict};
use margay::{Bundle, DeviceOptions, Engine, Request};
use margay_cli::authority::Authority;
use margay_cli::config;
use margay_cli::console::Console;
use margay_cli::gateway::{GatewayArgs, run};
use margay_cli::logging::LogArgs;
use margay_cli::serve::{Model, Options, Server};
use margay_link::GatewayCounts;
use margay_trainer::data::read_jsonl;
use wire::Wire;

/// Longest answer of the gateway's small model, in tokens.
const MAX_TOKENS: usize = 12;

/// The cloud's large model, which says what it was asked: every answer can be told from every other.
struct Echo(Mutex<Vec<String>>);

impl LargeModel for Echo {
    fn answer<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, margay::Result<CloudAnswer>> {
        let asked = request.messages.last().unwrap().content.clone();
        self.0.lock().unwrap().push(asked.clone());
        Box::pin(async move { Ok(CloudAnswer::new(in_the_cloud(&asked))) })
    }
}

fn in_the_cloud(asked: &str) -> String {
    format!("the cloud heard: {asked}")
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What the device must say to an utterance: the intent, and the bits of the score; and whether it keeps it.
fn on_the_device(utterance: &str) -> (String, bool) {
    let policy = Policy::<1>::from_postcard(model::POLICY).unwrap();
    let mut logits = vec![0.0; model::INTENTS.len()];
    let intent = model::CLASSIFIER.classify(utterance, &mut logits).unwrap();
    let mut monitor = Monitor::new(&policy, None, 1);
    let _ = monitor.observe(TokenSignals::from_logits(&logits, intent).unwrap());
    let decision = monitor.decide();
    let bits = decision.score.unwrap().value().to_bits();
    (format!("{intent} {bits:08x}"), decision.verdict == Verdict::Keep)
}

/// Utterances of the test split that the device is unsure of, and some that it is not.
fn utterances() -> (Vec<String>, Vec<String>) {
    let path = repository().join("firmware-examples/voice-intents/data/test.jsonl.gz");
    let all = read_jsonl(&path).unwrap().into_iter().map(|row| row.input);
    all.partition(|utterance| !on_the_device(utterance).1)
}

/// A gateway in this process, which can be ended and started again.
struct Gateway {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<GatewayCounts>,
}

impl Gateway {
    fn start(config: &Path, serial: &str) -> Self {
        let args = GatewayArgs {
            serial: serial.parse().unwrap(),
            baud: 115_200,
            config: config.to_owned(),
            max_tokens: MAX_TOKENS,
            json: false,
            log: LogArgs::default(),
        };
        let configuration = config::read(&args.config).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            run(&args, &configuration, &seen, &mut Console::to(Box::new(std::io::sink()))).unwrap()
        });
        Self { stop, thread }
    }

    fn end(self) -> GatewayCounts {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// The toy bundle with a policy that keeps about half of the answers to these questions; and those answers, by question.
fn small_model(folder: &Path, questions: &[String]) -> BTreeMap<String, (String, f32)> {
    let toy = repository().join("runtime/tests/fixtures/toy");
    for entry in std::fs::read_dir(toy).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
    Locate::from_environment().find_or_fetch(&mut |_| {}).unwrap().initialise().unwrap();
    let bundle = Bundle::open(folder).unwrap();
    let engine = Engine::load(&bundle, DeviceOptions { threads: Some(1), ..DeviceOptions::default() }).unwrap();
    let mut answers = BTreeMap::new();
    for question in questions {
        let request = Request::user(question).max_tokens(MAX_TOKENS);
        let generation = engine.generate(&request, None, &mut |_| ControlFlow::Continue(())).unwrap();
        let mut answer = Aggregate::new();
        generation.signals.iter().for_each(|signals| answer.observe(*signals));
        answers.insert(question.clone(), (generation.text, answer.mean_log_probability().unwrap()));
    }
    let mut scores: Vec<f32> = answers.values().map(|(_, score)| *score).collect();
    scores.sort_by(f32::total_cmp);
    let threshold = Threshold::new(scores[scores.len() / 2]).unwrap();
    let policy = CalibratedPolicy {
        model_digest: *bundle.model_digest(),
        policy: Policy::new(Rule::ChowAverage, threshold),
        router: None,
        calibration: Calibration {
            method: "the median of these very answers".into(),
            target: 0.5,
            data: "none".into(),
            sample_size: 0,
            guarantee: "none".into(),
        },
        certificates: Vec::new(),
    };
    margay_exporter::write_policy(&bundle, &policy, None, None).unwrap();
    answers.retain(|_, (_, score)| *score >= threshold.value());
    answers
}

#[test]
fn what_the_device_is_unsure_of_is_answered_though_the_line_is_cut() {
    let (unsure, sure) = utterances();
    let unsure: Vec<String> = unsure.into_iter().take(12).collect();
    assert!(unsure.len() == 12 && sure.len() > 12, "{} and {}", unsure.len(), sure.len());

    // The cloud, the gateway's configuration, and the line.
    let folder = tempfile::tempdir().unwrap();
    let bundle = folder.path().join("small.bundle");
    std::fs::create_dir(&bundle).unwrap();
    let kept_at_the_gateway = small_model(&bundle, &unsure);
    let echo = Arc::new(Echo(Mutex::default()));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let authority = Authority::new().unwrap();
    let server = {
        let _inside = runtime.enter();
        let options = Options::new("large").tls(authority.server_config());
        Server::start(Model::cloud(Arc::clone(&echo) as Arc<dyn LargeModel>), options).unwrap()
    };
    std::fs::write(folder.path().join("ca.pem"), authority.pem()).unwrap();
    let config = folder.path().join("margay.toml");
    let endpoint = server.endpoint();
    let text = format!(
        "version = 1\n[device]\nbundle = \"small.bundle\"\nthreads = 1\n[cascade]\non_cloud_failure = \"fail\"\n\
         [cloud.server]\nendpoint = \"{endpoint}\"\nmodel = \"large\"\nroots = {{ pem = \"ca.pem\" }}\n[privacy]\nredact = false\n"
    );
    std::fs::write(&config, text).unwrap();
    let wire = Wire::new();
    let gateway = Gateway::start(&config, &wire.gateway_address());

    // The device, and what it is told. Every utterance has a verdict, with the bits that this machine computes.
    let mut board = Board::start(&board::build("voice-intents"), &wire);
    let mut talk = Talk { board: &mut board, heard: 0, deferred: Vec::new(), answers: BTreeMap::new() };
    for (unsure, sure) in unsure[..4].iter().zip(&sure) {
        talk.say(unsure);
        talk.say(sure);
    }
    talk.hear_answers(4);

    // The line is cut in the middle of a frame. What the device says now is lost, as it notices by the silence.
    wire.cut_after(7);
    for unsure in &unsure[4..8] {
        talk.say(unsure);
    }
    assert!(!on_the_device("order twelve purple umbrellas").1, "an utterance that would be deferred");
    talk.say("private: order twelve purple umbrellas");
    wire.wait_for_lost_frames(5);
    assert_eq!(talk.answers.len(), 4, "nothing came over a line that is cut");
    wire.mend();
    talk.hear_answers(8);

    // The gateway is started anew while the device waits: it is asked again.
    wire.cut_after(0);
    for unsure in &unsure[8..] {
        talk.say(unsure);
    }
    wire.wait_for_lost_frames(2);
    let first = gateway.end();
    let gateway = Gateway::start(&config, &wire.gateway_address());
    wire.mend();
    talk.hear_answers(12);

    // Nothing is lost, nothing is another's answer, and who answered is who was to.
    assert_eq!(talk.deferred, unsure);
    for (number, utterance) in unsure.iter().enumerate() {
        let (origin, answer) = &talk.answers[&(number as u32)];
        let (expected_origin, expected) = match kept_at_the_gateway.get(utterance) {
            Some((text, _)) => ("local", text.clone()),
            None => ("cloud", in_the_cloud(utterance)),
        };
        assert_eq!((origin.as_str(), answer.trim_end()), (expected_origin, board::printable(&expected).trim_end()));
    }
    let local = talk.answers.values().filter(|(origin, _)| origin == "local").count();
    assert!((2..=10).contains(&local), "{local} of 12 were answered by the gateway itself");
    let in_the_cloud: BTreeSet<String> = echo.0.lock().unwrap().iter().cloned().collect();
    assert!(in_the_cloud.iter().all(|asked| unsure.contains(asked)), "what is private or sure never left");

    let summary = board.end();
    assert!(summary.contains("17 utterances") && summary.contains("12 answered, 0 dropped, 0 waiting"), "{summary}");
    let second = gateway.end();
    assert!(first.asked + second.asked >= 12, "{first:?} {second:?}");
    assert!(server.address().port() != 0);
}

/// What was typed in and what came back.
struct Talk<'a> {
    board: &'a mut Board,
    heard: u32,
    deferred: Vec<String>,
    /// By question: who answered, and what.
    answers: BTreeMap<u32, (String, String)>,
}

impl Talk<'_> {
    /// Types an utterance and waits for its verdict.
    fn say(&mut self, utterance: &str) {
        self.board.type_line(utterance);
        let number = self.heard;
        self.heard += 1;
        let verdict = loop {
            match self.board.next() {
                Said::Verdict { number: of, verdict, bits } => {
                    assert_eq!(of, number);
                    let text = utterance.strip_prefix("private: ").unwrap_or(utterance);
                    assert_eq!(bits, on_the_device(text).0, "{utterance}");
                    break verdict;
                }
                Said::Answer { number, origin, text } => self.keep(number, origin, text),
            }
        };
        let expected = match on_the_device(utterance.strip_prefix("private: ").unwrap_or(utterance)).1 {
            true => "keep",
            false if utterance.starts_with("private: ") => "abstain (local-only)",
            false => {
                self.deferred.push(utterance.to_owned());
                "defer (low-confidence)"
            }
        };
        assert_eq!(verdict, expected, "{utterance}");
    }

    /// Waits until so many answers are there.
    fn hear_answers(&mut self, count: usize) {
        while self.answers.len() < count {
            match self.board.next() {
                Said::Answer { number, origin, text } => self.keep(number, origin, text),
                Said::Verdict { number, .. } => panic!("utterance {number} has two verdicts"),
            }
        }
    }

    fn keep(&mut self, number: u32, origin: String, text: String) {
        assert!(self.answers.insert(number, (origin, text)).is_none(), "question {number} was answered twice");
    }
}
