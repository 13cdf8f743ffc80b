//! Which model a query begins with, and keeps: always the same, or whatever serves then.

use std::ops::ControlFlow;
use std::sync::Arc;

use margay_policy::Decision;

use super::outlet::Outlet;
use crate::answer::Origin;
use crate::bundle::CalibratedPolicy;
use crate::engine::{Engine, Generation};
use crate::error::{Error, ErrorKind, Result};
use crate::request::Request;
use crate::slots::Slots;

/// Where the model of a query comes from.
#[derive(Debug)]
pub(super) enum Models {
    /// The same for all.
    One(Model),
    /// Whatever serves when the query begins.
    Slots(Arc<Slots>),
}

/// A model, and when its answer stands.
#[derive(Debug, Clone)]
pub(super) struct Model {
    pub(super) engine: Arc<Engine>,
    pub(super) policy: Arc<CalibratedPolicy>,
}

impl Models {
    /// The model that a query which begins now keeps to its end.
    pub(super) fn now(&self) -> Result<Model> {
        let slots = match self {
            Self::One(model) => return Ok(model.clone()),
            Self::Slots(slots) => slots,
        };
        let missing = |what: String| Error::new(ErrorKind::InvalidRequest, what);
        let serving = slots.serving().ok_or_else(|| missing("no bundle serves in the cascade's slots".to_owned()))?;
        let policy = serving
            .bundle
            .shared_policy()
            .ok_or_else(|| missing(format!("the bundle {} serves without a policy", serving.bundle.manifest().name)))?;
        Ok(Model { engine: Arc::clone(&serving.engine), policy })
    }
}

impl Model {
    /// The decision to send a request on at once, if there is a router and it does.
    pub(super) fn routed(&self, request: &Request) -> Option<Decision> {
        self.policy.router.as_ref()?.sends_away(request.question())
    }

    /// Generates off the asynchronous threads; stops if nobody waits for it any more.
    pub(super) async fn generate(
        &self,
        request: &Request,
        stop_early: bool,
        outlet: Option<&Arc<Outlet>>,
    ) -> Result<Generation> {
        let (engine, request, outlet) = (Arc::clone(&self.engine), request.clone(), outlet.cloned());
        let policy = stop_early.then(|| Arc::clone(&self.policy));
        let abandoned = request.cancel.drop_guard();
        let generating = tokio::task::spawn_blocking(move || {
            let mut written = String::new();
            engine.generate(&request, policy.as_deref().map(|calibrated| &calibrated.policy), &mut |token| {
                if let Some(outlet) = &outlet {
                    written.push_str(token.text);
                    outlet.reach(&written, Origin::Local);
                }
                ControlFlow::Continue(())
            })
        });
        let generation = generating.await;
        abandoned.disarm();
        generation.map_err(|error| Error::new(ErrorKind::Inference, "generation broke off").with_source(error))?
    }
}
