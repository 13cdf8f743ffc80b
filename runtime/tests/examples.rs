//! The programs in `examples/`, run.
#![cfg(feature = "testing")]
#![expect(clippy::unwrap_used, reason = "a failed preparation fails the test")]

#[path = "../examples/cancel.rs"]
#[expect(dead_code, reason = "a program's `main`")]
mod cancel;
#[path = "../examples/cascade.rs"]
#[expect(dead_code, reason = "a program's `main`")]
mod cascade;
mod common;
#[path = "../examples/generate.rs"]
#[expect(dead_code, reason = "a program's `main`")]
mod generate;

use std::io::{self, BufReader, Read, Write};
use std::sync::mpsc::{Receiver, Sender, channel};

use margay::bundle::CalibratedPolicy;
use margay::cloud::Roots;
use margay::policy::{Policy, Rule, Threshold};
use margay::testing::{FaultyServer, Reply};

use common::{fixtures, library, relist, toy};

fn initialised() -> String {
    library().initialise().unwrap();
    fixtures().join("toy").to_str().unwrap().to_owned()
}

#[test]
fn generate_says_what_the_device_says() {
    let mut out = Vec::new();
    generate::generate(&initialised(), "wake me at six", &mut out).unwrap();
    let out = String::from_utf8(out).unwrap();
    assert!(out.contains(" tokens, ") && out.ends_with("; the bundle has no policy]\n"), "{out}");
}

#[test]
fn cascade_asks_the_large_model_and_lives_without_it() {
    initialised();
    let folder = toy();
    let calibrated = CalibratedPolicy::by_hand(
        *margay::Bundle::open(folder.path()).unwrap().model_digest(),
        Policy::new(Rule::ChowAverage, Threshold::DEFER_ALL),
    );
    std::fs::write(folder.path().join("policy.json"), serde_json::to_vec(&calibrated).unwrap()).unwrap();
    relist(folder.path());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let server = runtime.block_on(FaultyServer::start([Reply::streams(&["at", " six"])]));
    server.reply_always(Reply::status("404 Not Found"));
    let bundle = folder.path().to_str().unwrap();
    let both =
        cascade::cascade(bundle, &server.endpoint(), "large", "key".into(), Roots::Pem(server.authority())).unwrap();
    let said = || {
        let mut out = Vec::new();
        cascade::ask(&both, "wake me at six", &mut out).unwrap();
        String::from_utf8(out).unwrap()
    };
    let asked = said();
    assert!(asked.ends_with("at six\n[cloud: early-low-confidence]\n"), "{asked}");
    let refused = said();
    assert!(refused.contains("\n[local: ") && refused.contains("\n[the large model: "), "{refused}");
}

/// An Enter; and when it is let go of, the program has heard it.
struct Enter(#[expect(dead_code, reason = "its end is what is waited for")] Sender<()>);

impl Read for Enter {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        b"\n".as_slice().read(into)
    }
}

/// Takes nothing before Enter was heard.
struct Patient(Vec<u8>, Receiver<()>);

impl Write for Patient {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.1.recv();
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn cancel_stops_or_tells_to_the_end() {
    let bundle = initialised();
    let (enter, heard) = channel();
    let mut out = Patient(Vec::new(), heard);
    cancel::tell(&bundle, "tell me a long story", BufReader::new(Enter(enter)), &mut out).unwrap();
    let stopped = String::from_utf8(out.0).unwrap();
    assert!(stopped.ends_with("\n[stopped]\n"), "{stopped}");
    let mut out = Vec::new();
    cancel::tell(&bundle, "tell me a long story", io::empty(), &mut out).unwrap();
    let whole = String::from_utf8(out).unwrap();
    assert!(whole.ends_with(" tokens]\n") && whole.len() > stopped.len(), "{whole}");
}
