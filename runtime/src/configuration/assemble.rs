//! From a configuration to the things it describes: clients made, stores opened, a cascade put together.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::token::Source;
use super::{Configuration, RootsSection, ServerSection};
use crate::bundle::CalibratedPolicy;
use crate::cascade::{Cascade, CascadeBuilder};
use crate::cloud::{
    Cached, CloudClient, Connectivity, Failover, Hedged, Identity, LargeModel, Probe, Proxy, Retry, Roots,
};
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::privacy::{AuditFile, AuditLog, Patterns};
use crate::stores::{Budget, Limit, Outbox, Price};

/// What a configuration describes, opened and ready.
#[non_exhaustive]
pub struct Assembly {
    /// The large model, with everything that stands before it: give it to [`Outbox::drain`] or [`Outbox::keep_draining`] too.
    pub cloud: Arc<dyn LargeModel>,
    /// What it may cost, if that is limited.
    pub budget: Option<Budget>,
    /// Where prompts wait, if they may.
    pub outbox: Option<Outbox>,
    /// What knows the way, if something does.
    pub connectivity: Option<Arc<dyn Connectivity>>,
    builder: CascadeBuilder,
}

impl Assembly {
    /// The cascade of this small model and everything here.
    ///
    /// # Errors
    /// As [`CascadeBuilder::build`].
    pub fn cascade(self, engine: impl Into<Arc<Engine>>, policy: CalibratedPolicy) -> Result<Cascade> {
        self.builder.engine(engine).policy(policy).build()
    }
}

impl std::fmt::Debug for Assembly {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Assembly").field("budget", &self.budget).field("outbox", &self.outbox).finish_non_exhaustive()
    }
}

impl Configuration {
    /// Makes the clients and opens the stores. Nothing is sent.
    ///
    /// # Errors
    /// What the parts fail with; [`ErrorKind::Io`] for a file that the configuration names and that cannot be read.
    pub fn assemble(&self) -> Result<Assembly> {
        let audit = self.privacy.audit.as_ref().map(|audit| AuditFile::open(self.path(audit))).transpose()?;
        let audit = audit.map(|audit| Arc::new(audit) as Arc<dyn AuditLog>);
        let budget = self.budget()?;
        let mut servers = std::iter::once(&self.cloud.server)
            .chain(&self.cloud.fallback)
            .map(|server| {
                let client = self.client(server, audit.clone())?;
                Ok(match &budget {
                    Some(budget) => Box::new(budget.meter(client)) as Box<dyn LargeModel>,
                    None => Box::new(client),
                })
            })
            .collect::<Result<Vec<_>>>()?
            .into_iter();
        let first = servers.next().ok_or_else(|| Error::new(ErrorKind::Configuration, "there is no server"))?;
        let first = match (&self.cloud.hedge, servers.next()) {
            (Some(hedge), Some(second)) => {
                Failover::new(Hedged::new(first, second, hedge.initial).percentile(hedge.percentile))
            }
            (None, Some(second)) => Failover::new(first).then(second),
            (_, None) => Failover::new(first),
        };
        let all = servers.fold(first, Failover::then);
        let cloud: Arc<dyn LargeModel> = match &self.cache {
            Some(cache) => Arc::new(Cached::new(all, cache.time_to_live, cache.max_bytes)),
            None => Arc::new(all),
        };
        let outbox = match &self.outbox {
            None => None,
            Some(outbox) => Some(
                Outbox::builder()
                    .time_to_live(outbox.time_to_live)
                    .max_entries(outbox.max_entries)
                    .max_bytes(outbox.max_bytes)
                    .open(self.path(&outbox.file))?,
            ),
        };
        let probe = |pause| Arc::new(Probe::new(&self.cloud.server.endpoint).pause(pause)) as Arc<dyn Connectivity>;
        let connectivity = self.connectivity.as_ref().map(|section| probe(section.pause));
        let mut builder = Cascade::builder()
            .cloud(Arc::clone(&cloud))
            .on_cloud_failure(self.cascade.on_cloud_failure)
            .breaker(self.cascade.breaker.failures, self.cascade.breaker.pause);
        if let Some(outbox) = &outbox {
            builder = builder.outbox(outbox.clone());
        }
        if let Some(connectivity) = &connectivity {
            builder = builder.connectivity(Arc::clone(connectivity));
        }
        if let Some(rate) = self.cascade.expected_deferral_rate {
            builder = builder.expected_deferral_rate(rate);
        }
        if let Some(after) = self.cascade.deadline {
            builder = builder.deadline(after);
        }
        Ok(Assembly { cloud, budget, outbox, connectivity, builder })
    }

    /// The cascade alone, for callers who cannot hand back an answer that had to wait.
    ///
    /// # Errors
    /// As [`Configuration::assemble`] and [`Assembly::cascade`]; [`ErrorKind::Configuration`] for an `[outbox]`, which nobody
    /// would drain.
    pub fn assemble_cascade(&self, engine: impl Into<Arc<Engine>>, policy: CalibratedPolicy) -> Result<Cascade> {
        if self.outbox.is_some() {
            let message = "an [outbox] is for programs that drain it, in Rust: leave it out here";
            return Err(Error::new(ErrorKind::Configuration, message));
        }
        self.assemble()?.cascade(engine, policy)
    }

    fn budget(&self) -> Result<Option<Budget>> {
        let Some(section) = &self.budget else { return Ok(None) };
        let price = Price { input: section.input_price.micros(), output: section.output_price.micros() };
        let limits = section.limit.iter().map(|limit| {
            let mut made = Limit::per(limit.per);
            if let Some(class) = &limit.class {
                made = made.class(class);
            }
            if let Some(money) = limit.money {
                made = made.money(money);
            }
            match limit.tokens {
                Some(tokens) => made.tokens(tokens),
                None => made,
            }
        });
        let builder = limits.fold(Budget::builder(price), |builder, limit| builder.limit(limit));
        builder.open(self.path(&section.file)).map(Some)
    }

    fn client(&self, server: &ServerSection, audit: Option<Arc<dyn AuditLog>>) -> Result<CloudClient> {
        let RetryParts(retry, ratio) = RetryParts::of(server);
        let mut builder = CloudClient::at(server.api.into(), server.endpoint.clone(), &server.model)
            .allow_static_key(server.allow_static_key)
            .roots(match &server.roots {
                RootsSection::Bundled => Roots::Bundled,
                RootsSection::Platform => Roots::Platform,
                RootsSection::Pem(file) => Roots::Pem(self.file(file)?),
            })
            .pins(server.pins.iter().copied())
            .connect_timeout(server.connect_timeout)
            .attempt_timeout(server.attempt_timeout)
            .retry(retry)
            .retry_ratio(ratio);
        if let Some(token) = &server.token {
            builder = builder.token(Source::new(token.get_ref(), |path| self.path(path)));
        }
        if let Some(identity) = &server.identity {
            builder = builder.identity(Identity::pem(self.file(&identity.certificate)?, self.file(&identity.key)?));
        }
        if let Some(section) = &server.proxy {
            let proxy: Proxy = section.url.clone();
            let password = section.password_file.as_ref().map(|file| self.file(file)).transpose()?;
            let password = String::from_utf8_lossy(&password.unwrap_or_default()).trim().to_owned();
            builder = builder.proxy(match &section.user {
                Some(user) => proxy.credentials(user, password),
                None => proxy,
            });
        }
        if self.privacy.redact || !self.privacy.patterns.is_empty() {
            let empty = if self.privacy.redact { Patterns::built_in() } else { Patterns::custom() };
            let mut patterns = self.privacy.patterns.iter();
            builder = builder.redactor(patterns.try_fold(empty, |all, (label, pattern)| all.pattern(label, pattern))?);
        }
        if let Some(audit) = audit {
            builder = builder.audit(audit);
        }
        builder.build()
    }

    /// A small file that the configuration names.
    fn file(&self, path: &Path) -> Result<Vec<u8>> {
        let path = self.path(path);
        fs::read(&path)
            .map_err(|error| Error::new(ErrorKind::Io, format!("cannot read {}", path.display())).with_source(error))
    }
}

struct RetryParts(Retry, f64);

impl RetryParts {
    fn of(server: &ServerSection) -> Self {
        let retry = &server.retry;
        Self(Retry { attempts: retry.attempts, base: retry.base, cap: retry.cap }, retry.ratio)
    }
}
