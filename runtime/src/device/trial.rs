//! Which of several execution providers a model runs on: each is tried, and what fails or is slow is dropped with its reason.

use std::collections::BTreeMap;
use std::time::Duration;

use super::options::{DeviceOptions, EpPolicy};
use super::provider::Provider;
use super::report::{Attempt, Outcome};
use crate::error::{Error, ErrorKind, Result};

/// A model that runs on some provider and has answered its canary.
pub(crate) struct Running<T> {
    pub(crate) model: T,
    pub(crate) load: Duration,
    /// Time of the first canary; `None` if it was noted that the model answers it here.
    pub(crate) warm_up: Option<Duration>,
    /// Time of a warm canary, if it was asked for.
    pub(crate) canary: Option<Duration>,
    pub(crate) canary_error: f32,
    pub(crate) nodes: Option<BTreeMap<String, usize>>,
}

/// Tries providers as the options say and returns the one in use, with every attempt. `run` loads the model on a provider and
/// decodes the canary, a second time to measure it if told so.
pub(crate) fn choose_provider<T>(
    options: &DeviceOptions,
    mut run: impl FnMut(Provider, bool) -> Result<Running<T>>,
) -> Result<(Provider, Running<T>, Vec<Attempt>)> {
    let measure = options.policy == EpPolicy::Auto;
    let mut attempts: Vec<Attempt> = Vec::new();
    let mut best: Option<(usize, Running<T>)> = None;
    for provider in candidates(options) {
        if measure && provider == Provider::Nnapi {
            let why = "never chosen automatically: it is deprecated and often slower than the CPU";
            attempts.push(Attempt::dropped(provider, why.into()));
            continue;
        }
        match run(provider, measure).and_then(|running| ran_something(provider, running)) {
            Ok(running) => {
                let (load, canary) = (Some(running.load), running.canary);
                let index = attempts.len();
                attempts.push(Attempt { provider, outcome: Outcome::Slower, load, canary });
                if best.as_ref().is_none_or(|(_, best)| running.canary < best.canary) {
                    best = Some((index, running));
                }
                if !measure {
                    break;
                }
            }
            Err(error) if options.policy == EpPolicy::Require => {
                let message = format!("the provider {provider} is required and does not run the model");
                return Err(Error::new(ErrorKind::Provider, message).with_source(error));
            }
            // Nothing is left to fall back to.
            Err(error) if provider == Provider::Cpu && best.is_none() => return Err(error),
            Err(error) => attempts.push(Attempt::dropped(provider, in_words(&error))),
        }
    }
    for attempt in &attempts {
        tracing::debug!(provider = %attempt.provider, outcome = ?attempt.outcome, "tried an execution provider");
    }
    let nothing = || Error::new(ErrorKind::Provider, "no execution provider runs the model");
    let (index, running) = best.ok_or_else(nothing)?;
    attempts[index].outcome = Outcome::InUse;
    Ok((attempts[index].provider, running, attempts))
}

/// What is tried, in order.
fn candidates(options: &DeviceOptions) -> Vec<Provider> {
    let named = &options.providers;
    match options.policy {
        EpPolicy::Require => vec![named.first().copied().unwrap_or(Provider::Cpu)],
        EpPolicy::Prefer => {
            let mut all = named.clone();
            all.push(Provider::Cpu);
            // What stands behind the CPU is never reached: it takes every graph.
            let end = all.iter().position(|provider| *provider == Provider::Cpu).unwrap_or(all.len() - 1);
            all.truncate(end + 1);
            all
        }
        EpPolicy::Auto => {
            let compiled = Provider::ALL.into_iter().filter(|provider| provider.is_compiled());
            let named = if named.is_empty() { compiled.collect() } else { named.clone() };
            // The CPU first: the others are measured against it.
            let others = named.into_iter().filter(|provider| *provider != Provider::Cpu);
            std::iter::once(Provider::Cpu).chain(others).collect()
        }
    }
}

/// A provider that was registered but took no node is no provider.
fn ran_something<T>(provider: Provider, running: Running<T>) -> Result<Running<T>> {
    let idle =
        running.nodes.as_ref().is_some_and(|nodes| nodes.get(provider.onnx_runtime_name()).copied().unwrap_or(0) == 0);
    if provider != Provider::Cpu && idle {
        return Err(Error::new(ErrorKind::Provider, "it was registered, but ran no node of the graph"));
    }
    Ok(running)
}

/// The error and its causes in one line.
fn in_words(error: &Error) -> String {
    let mut words = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        let cause_words = cause.to_string();
        if !words.contains(&cause_words) {
            words = format!("{words}: {cause_words}");
        }
        next = cause.source();
    }
    words
}

impl Attempt {
    fn dropped(provider: Provider, why: String) -> Self {
        Self { provider, outcome: Outcome::Dropped(why), load: None, canary: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run that takes `canary` milliseconds once warm, with nodes on the provider itself.
    fn running(provider: Provider, canary: u64) -> Result<Running<Provider>> {
        Ok(Running {
            model: provider,
            load: Duration::from_millis(1),
            warm_up: Some(Duration::from_millis(2)),
            canary: Some(Duration::from_millis(canary)),
            canary_error: 0.0,
            nodes: Some([(provider.onnx_runtime_name().to_owned(), 3)].into()),
        })
    }

    fn failing() -> Result<Running<Provider>> {
        Err(Error::new(ErrorKind::Inference, "boom").with_source(Error::new(ErrorKind::Io, "no device")))
    }

    fn options(policy: EpPolicy, providers: &[Provider]) -> DeviceOptions {
        DeviceOptions { policy, providers: providers.to_vec(), ..DeviceOptions::default() }
    }

    use Provider::{Cpu, Cuda, Nnapi, OpenVino, Xnnpack};

    #[test]
    fn prefer_takes_the_first_that_runs_and_keeps_the_reasons() {
        let options = options(EpPolicy::Prefer, &[Cuda, OpenVino, Cpu, Xnnpack]);
        let run = |provider, measure: bool| {
            assert!(!measure);
            if provider == Cuda { failing() } else { running(provider, 5) }
        };
        let (chosen, model, attempts) = choose_provider(&options, run).unwrap();
        assert_eq!((chosen, model.model), (OpenVino, OpenVino));
        assert_eq!(attempts[0].outcome, Outcome::Dropped("boom: no device".into()));
        assert_eq!((attempts.len(), &attempts[1].outcome), (2, &Outcome::InUse));
        let all_fail = |provider, _| if provider == Cpu { running(provider, 5) } else { failing() };
        let (chosen, _, attempts) = choose_provider(&options, all_fail).unwrap();
        assert_eq!((chosen, attempts.len()), (Cpu, 3), "what stands behind the CPU is not tried");
        assert_eq!(choose_provider(&options, |_, _| failing()).err().unwrap().kind(), ErrorKind::Inference);
    }

    #[test]
    fn auto_takes_the_fastest_and_never_nnapi() {
        let options = options(EpPolicy::Auto, &[Nnapi, Cuda, OpenVino, Xnnpack]);
        let run = |provider, measure: bool| {
            assert!(measure && provider != Nnapi);
            match provider {
                Cuda => failing(),
                OpenVino => running(provider, 3),
                Xnnpack => running(provider, 9),
                other => running(other, 5),
            }
        };
        let (chosen, _, attempts) = choose_provider(&options, run).unwrap();
        assert_eq!(chosen, OpenVino);
        let of = |provider| &attempts.iter().find(|attempt| attempt.provider == provider).unwrap().outcome;
        assert_eq!((of(Cpu), of(Xnnpack), of(OpenVino)), (&Outcome::Slower, &Outcome::Slower, &Outcome::InUse));
        assert!(matches!(of(Nnapi), Outcome::Dropped(why) if why.contains("automatically")));
        assert!(matches!(of(Cuda), Outcome::Dropped(_)));
        // Slower than the CPU, so dropped.
        let slow = |provider, _| running(provider, if provider == Cpu { 5 } else { 6 });
        assert_eq!(choose_provider(&options, slow).unwrap().0, Cpu);
    }

    #[test]
    fn a_required_provider_that_fails_or_idles_is_an_error() {
        let options = options(EpPolicy::Require, &[OpenVino]);
        assert_eq!(choose_provider(&options, |provider, _| running(provider, 5)).unwrap().0, OpenVino);
        assert_eq!(choose_provider(&options, |_, _| failing()).err().unwrap().kind(), ErrorKind::Provider);
        let idle = |_, _| running(Cpu, 5);
        let error = choose_provider(&options, idle).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Provider);
        assert!(std::error::Error::source(&error).unwrap().to_string().contains("ran no node"));
    }
}
