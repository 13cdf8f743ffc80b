//! Answering every query: on the device alone, in the cloud alone, and through the cascade.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use margay::cloud::{CloudClient, LargeModel, Roots, Token, Wanted};
use margay::policy::{Policy, Threshold};
use margay::{Answer, Bundle, Cascade, DeviceOptions, Engine, OnCloudFailure, Origin, Request, Tokens};
use margay_trainer::data::Example;
use tokio::runtime::Runtime;

use super::RULE;
use crate::authority::Authority;
use crate::console::Bar;
use crate::error::{Error, Result};
use crate::serve::{Model, Options, Server};

/// The large model behind HTTPS on this machine, and a way to wait for it.
pub(super) struct Cloud {
    runtime: Runtime,
    server: Server,
    authority: Authority,
    token: String,
    /// FLOPs of the large model per token.
    flops_per_token: u64,
}

/// What one model, or the cascade, said to one query.
pub(super) struct Said {
    pub(super) text: String,
    /// The device's confidence; absent where the cloud was asked directly.
    pub(super) score: Option<f64>,
    /// Whether the cloud answered.
    pub(super) deferred: bool,
    pub(super) tokens: Tokens,
    pub(super) flops: f64,
    pub(super) latency: Duration,
}

impl Cloud {
    /// Starts serving a bundle, with a certificate authority and a token made for this run.
    pub(super) fn start(bundle: &Bundle) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime =
            runtime.map_err(|source| Error::Io { action: "start the threads of the server".into(), source })?;
        let engine = Arc::new(Engine::load(bundle, one_thread())?);
        let token = secret()?;
        let authority = Authority::new()?;
        let options = Options::new(MODEL).token(token.clone()).tls(authority.server_config());
        let server = {
            let _inside = runtime.enter();
            Server::start(Model::device(engine, None), options)?
        };
        Ok(Self { runtime, server, authority, token, flops_per_token: bundle.manifest().model.flops_per_token })
    }

    /// Where it listens.
    pub(super) fn endpoint(&self) -> String {
        self.server.endpoint()
    }

    /// A client that trusts the run's own authority and nobody else.
    fn client(&self) -> Result<CloudClient> {
        let token = self.token.clone();
        let client = CloudClient::openai(self.endpoint(), MODEL)
            .roots(Roots::Pem(self.authority.pem().as_bytes().to_vec()))
            .token(move |_: Wanted| {
                let token = Token::new(token.clone());
                async move { Ok(token) }
            });
        Ok(client.build()?)
    }

    /// The large model's answers, every query over HTTPS.
    pub(super) fn answers(&self, rows: &[Example], max_tokens: usize, bar: &Bar) -> Result<Vec<Said>> {
        let client = self.client()?;
        let ask = |row: &Example| {
            let request = Request::user(&row.input).max_tokens(max_tokens);
            let started = Instant::now();
            let answer = self.runtime.block_on(client.answer(&request))?;
            let tokens = answer.usage.unwrap_or_default();
            bar.advance(1);
            Ok(Said {
                text: answer.text,
                score: None,
                deferred: true,
                tokens,
                flops: flops(tokens, self.flops_per_token),
                latency: started.elapsed(),
            })
        };
        rows.iter().map(ask).collect()
    }

    /// Every query through the cascade of this bundle, which has a policy, and this cloud.
    pub(super) fn cascade(&self, bundle: &Bundle, rows: &[Example], max_tokens: usize, bar: &Bar) -> Result<Vec<Said>> {
        let policy = bundle.policy().cloned();
        let policy = policy.ok_or_else(|| Error::Usage(format!("{} has no policy", bundle.root().display())))?;
        let cascade = Cascade::builder()
            .engine(Engine::load(bundle, one_thread())?)
            .policy(policy)
            .cloud(self.client()?)
            .on_cloud_failure(OnCloudFailure::Fail)
            .build()?;
        let local_flops = bundle.manifest().model.flops_per_token;
        let ask = |row: &Example| {
            let request = Request::user(&row.input).max_tokens(max_tokens);
            let answer = self.runtime.block_on(cascade.answer(request))?;
            bar.advance(1);
            Ok(self.said(answer, local_flops))
        };
        rows.iter().map(ask).collect()
    }

    fn said(&self, answer: Answer, local_flops: u64) -> Said {
        let (local, cloud) = (answer.usage.local, answer.usage.cloud.unwrap_or_default());
        Said {
            deferred: answer.origin == Origin::Cloud,
            score: answer.score.map(|score| score.value().into()),
            tokens: Tokens { input: local.input + cloud.input, output: local.output + cloud.output },
            flops: flops(local, local_flops) + flops(cloud, self.flops_per_token),
            latency: answer.timings.total,
            text: answer.text,
        }
    }

    /// Lets running exchanges finish and stops serving.
    pub(super) fn stop(self) -> Result<()> {
        Ok(self.runtime.block_on(self.server.shutdown(Duration::from_secs(5)))?)
    }
}

/// The device's own answers with their scores, nothing deferred and nothing cut short.
pub(super) fn device_answers(bundle: &Bundle, rows: &[Example], max_tokens: usize, bar: &Bar) -> Result<Vec<Said>> {
    let engine = Engine::load(bundle, one_thread())?;
    let keep_all: Policy = Policy::new(RULE, Threshold::KEEP_ALL);
    let flops_per_token = bundle.manifest().model.flops_per_token;
    let ask = |row: &Example| {
        let request = Request::user(&row.input).max_tokens(max_tokens);
        let started = Instant::now();
        let generation = engine.generate(&request, Some(&keep_all), &mut |_| ControlFlow::Continue(()))?;
        let tokens = Tokens { input: generation.prompt_tokens as u64, output: generation.token_ids.len() as u64 };
        bar.advance(1);
        Ok(Said {
            text: generation.text,
            score: generation.decision.and_then(|decision| decision.score).map(|score| score.value().into()),
            deferred: false,
            tokens,
            flops: flops(tokens, flops_per_token),
            latency: started.elapsed(),
        })
    };
    rows.iter().map(ask).collect()
}

/// A bearer token that nobody can guess.
fn secret() -> Result<String> {
    let mut bytes = [0; 16];
    let random = rustls::crypto::ring::default_provider().secure_random;
    random.fill(&mut bytes).map_err(|_| Error::Usage("the operating system gives no random numbers".into()))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The name under which the large model is served.
const MODEL: &str = "large";

/// One core for each side: device and cloud do not take turns on the same one.
fn one_thread() -> DeviceOptions {
    DeviceOptions { threads: Some(1), ..DeviceOptions::default() }
}

/// Every token read or written passes through the model once.
fn flops(tokens: Tokens, per_token: u64) -> f64 {
    (tokens.input + tokens.output) as f64 * per_token as f64
}
