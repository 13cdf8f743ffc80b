//! OpenAI's own clients, for Python and for Node, against the server: a small model alone, and a cascade whose cloud is
//! another such server behind TLS.
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a failed preparation fails the test; a missing Node is said"
)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use margay::bundle::CalibratedPolicy;
use margay::cloud::{BoxFuture, CloudAnswer, CloudClient, LargeModel, Retry, Roots};
use margay::device::library::Locate;
use margay::policy::{Policy, Rule, Threshold};
use margay::{Bundle, Cascade, DeviceOptions, Engine, Request, Result, Tokens, ToolCall};
use margay_cli::authority::Authority;
use margay_cli::serve::{Model, Options, Server};
use margay_tests::node::{Node, OPENAI as OPENAI_NODE};
use margay_tests::python::{OPENAI, Python};
use tokio::runtime::Runtime;

const TOKEN: &str = "a-token-for-one-test";

/// Says the same to everybody, and calls the first function that it is told of.
struct Large;

impl LargeModel for Large {
    fn answer<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<CloudAnswer>> {
        let mut answer = CloudAnswer::new("from the cloud");
        answer.usage = Some(Tokens { input: 5, output: 3 });
        if let Some(tool) = request.tools.first() {
            answer.text.clear();
            answer.tool_calls = vec![ToolCall::new("call_1", &tool.name, r#"{"city": "Lima"}"#)];
        }
        Box::pin(async { Ok(answer) })
    }
}

/// A small model alone without a token, and a cascade that defers everything with one.
struct Servers {
    _runtime: Runtime,
    device: Server,
    cascade: Server,
    _cloud: Server,
}

impl Servers {
    fn start() -> Self {
        let runtime = Runtime::new().unwrap();
        let library = Locate::from_environment().find_or_fetch(&mut |progress| eprintln!("{progress}")).unwrap();
        let bundle = Bundle::open(repository().join("runtime/tests/fixtures/toy")).unwrap();
        let options = DeviceOptions { threads: Some(1), library: Some(library), ..DeviceOptions::default() };
        let engine = Arc::new(Engine::load(&bundle, options).unwrap());
        let inside = runtime.enter();

        let authority = Authority::new().unwrap();
        let options = Options::new("large").tls(authority.server_config());
        let cloud = Server::start(Model::cloud(Arc::new(Large)), options).unwrap();
        let client = CloudClient::openai(cloud.endpoint(), "large")
            .roots(Roots::Pem(authority.pem().as_bytes().to_vec()))
            .retry(Retry::NEVER)
            .build();
        let client: Arc<dyn LargeModel> = Arc::new(client.unwrap());
        let policy = defers_everything(&engine);
        let cascade = Cascade::builder().engine(Arc::clone(&engine)).policy(policy.clone()).cloud(Arc::clone(&client));
        let cascade = Model::cascade(cascade.build().unwrap(), Arc::clone(&engine), &policy, client);
        let cascade = Server::start(cascade, Options::new("both").token(TOKEN)).unwrap();
        let device = Server::start(Model::device(engine, None), Options::new("toy")).unwrap();
        drop(inside);
        Self { _runtime: runtime, device, cascade, _cloud: cloud }
    }

    /// Runs the list against both; each says what it has checked.
    fn check(&self, run: impl Fn(&[&str]) -> String) {
        for (arguments, at_least) in [
            (&[&*self.device.endpoint(), "toy", "device"][..], 14),
            (&[&*self.cascade.endpoint(), "both", "cloud", TOKEN][..], 11),
        ] {
            let checked: Vec<String> = serde_json::from_str(run(arguments).trim()).unwrap();
            assert!(checked.len() >= at_least, "{checked:?}");
        }
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// No answer of the toy is sure enough.
fn defers_everything(engine: &Engine) -> CalibratedPolicy {
    CalibratedPolicy::by_hand(*engine.model_digest(), Policy::new(Rule::ChowAverage, Threshold::new(-1e-6).unwrap()))
}

#[test]
fn the_python_client_is_served() {
    let python = Python::with(OPENAI).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/openai_client.py");
    Servers::start().check(|arguments| {
        let arguments: Vec<&Path> = arguments.iter().map(Path::new).collect();
        python.run(&script, &arguments).unwrap()
    });
}

#[test]
fn the_node_client_is_served() {
    let Some(node) = Node::with(OPENAI_NODE).unwrap() else {
        eprintln!("SKIPPED: there is no Node.js 20 or newer with npm here; `apt-get install nodejs npm`");
        return;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("node/openai_client.mjs");
    Servers::start().check(|arguments| node.run(&script, arguments).unwrap());
}
