//! A small model that is sure of nothing, and a large one that says what it was asked.
#![expect(clippy::unwrap_used, reason = "a failed preparation fails the test")]

use std::path::PathBuf;

use margay::bundle::CalibratedPolicy;
use margay::cloud::{BoxFuture, CloudAnswer, LargeModel};
use margay::policy::{Policy, Rule, Threshold};
use margay::{Bundle, Request, Tokens};
use margay_cli::authority::Authority;

pub(crate) fn toy() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../runtime/tests/fixtures/toy")
}

/// Says what it was asked last.
pub(crate) struct Echo;

impl LargeModel for Echo {
    fn answer<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, margay::Result<CloudAnswer>> {
        let mut answer = CloudAnswer::new(format!("you said: {}", request.messages.last().unwrap().content));
        answer.usage = Some(Tokens { input: 1_000, output: 100 });
        Box::pin(async { Ok(answer) })
    }
}

/// The toy with a threshold that none of its answers reaches, as a folder with a `margay.toml` beside it.
pub(crate) fn cascade(endpoint: &str, authority: &Authority) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let small = folder.path().join("small");
    std::fs::create_dir(&small).unwrap();
    for entry in std::fs::read_dir(toy()).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), small.join(entry.file_name())).unwrap();
    }
    let bundle = Bundle::open(&small).unwrap();
    let policy = Policy::new(Rule::ChowAverage, Threshold::new(-1e-6).unwrap());
    let policy = CalibratedPolicy::by_hand(*bundle.model_digest(), policy);
    margay_exporter::write_policy(&bundle, &policy, None, None).unwrap();
    std::fs::write(folder.path().join("ca.pem"), authority.pem()).unwrap();
    let toml = format!(
        "version = 1\n[device]\nbundle = \"small\"\n\
         [cloud.server]\nendpoint = \"{endpoint}\"\nmodel = \"large\"\nroots = {{ pem = \"ca.pem\" }}\n\
         [privacy]\naudit = \"audit.jsonl\"\n\
         [budget]\nfile = \"budget.redb\"\ninput_price = \"2.50\"\noutput_price = \"10\"\n\
         [[budget.limit]]\nper = \"day\"\nmoney = \"0.01\"\n"
    );
    std::fs::write(folder.path().join("margay.toml"), toml).unwrap();
    folder
}
