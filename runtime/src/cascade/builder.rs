//! How a cascade is put together, and what is checked then.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use margay_policy::guard::CircuitBreaker;

use super::blocking::Blocking;
use super::device::Device;
use super::model::{Model, Models};
use super::query::Parts;
use super::queue::Queue;
use super::{Cascade, OnCloudFailure};
use crate::bundle::CalibratedPolicy;
use crate::cloud::{Clock, Connectivity, LargeModel, SystemClock};
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::slots::Slots;
use crate::telemetry::DeferralRate;

/// Failed queries in a row after which the large model is left alone.
const FAILURES: NonZeroU32 = NonZeroU32::MIN.saturating_add(4);

/// How long it is left alone.
const PAUSE: Duration = Duration::from_secs(30);

/// What a [`Cascade`] is made of; see [`Cascade::builder`].
pub struct CascadeBuilder {
    engine: Option<Arc<Engine>>,
    policy: Option<CalibratedPolicy>,
    slots: Option<Arc<Slots>>,
    cloud: Option<Box<dyn LargeModel>>,
    queue: Queue,
    on_cloud_failure: OnCloudFailure,
    failures: NonZeroU32,
    pause: Duration,
    connectivity: Option<Arc<dyn Connectivity>>,
    expected_deferral_rate: Option<f64>,
    deadline: Option<Duration>,
    clock: Arc<dyn Clock>,
}

impl CascadeBuilder {
    /// The small model.
    #[must_use]
    pub fn engine(mut self, engine: impl Into<Arc<Engine>>) -> Self {
        self.engine = Some(engine.into());
        self
    }

    /// When the small model's answer stands, and what it is not asked at all, if the policy has a router: the bundle's own
    /// policy, or another calibrated on the same model.
    #[must_use]
    pub fn policy(mut self, policy: CalibratedPolicy) -> Self {
        self.policy = Some(policy);
        self
    }

    /// In the place of engine and policy: whatever serves in `slots`, with its bundle's own policy. A query keeps the model
    /// that served when it began, the next one takes what serves then; while nothing serves, or without a policy, a query
    /// fails with [`ErrorKind::InvalidRequest`].
    #[must_use]
    pub fn slots(mut self, slots: Arc<Slots>) -> Self {
        self.slots = Some(slots);
        self
    }

    /// The large model.
    #[must_use]
    pub fn cloud(mut self, cloud: impl LargeModel + 'static) -> Self {
        self.cloud = Some(Box::new(cloud));
        self
    }

    /// Where prompts wait that the large model cannot take now: it cannot be reached, fails, is busy, or is left alone by the
    /// breaker. They are answered with [`crate::Origin::Queued`] and a ticket. Others end as
    /// [`CascadeBuilder::on_cloud_failure`] says, and so do these when the outbox is full.
    ///
    /// Whoever knows that the network is back calls [`crate::stores::Outbox::drain`] with the same large model.
    #[cfg(feature = "stores")]
    #[must_use]
    pub fn outbox(mut self, outbox: crate::stores::Outbox) -> Self {
        self.queue = Queue(Some(outbox));
        self
    }

    /// What becomes of a query when the large model fails; the device's answer unless said.
    #[must_use]
    pub fn on_cloud_failure(mut self, then: OnCloudFailure) -> Self {
        self.on_cloud_failure = then;
        self
    }

    /// After `failures` failed queries in a row the large model is left alone for `pause`; 5 and 30 seconds unless said.
    #[must_use]
    pub fn breaker(mut self, failures: NonZeroU32, pause: Duration) -> Self {
        (self.failures, self.pause) = (failures, pause);
        self
    }

    /// What knows whether there is a way to the cloud. While there is none, it is not tried, and queries that would have
    /// gone there end as they do when it fails.
    #[must_use]
    pub fn connectivity(mut self, connectivity: Arc<dyn Connectivity>) -> Self {
        self.connectivity = Some(connectivity);
        self
    }

    /// How often the device was unsure on the calibration data, in `0.0..=1.0`: an alarm says when it no longer is so, see
    /// [`crate::telemetry`].
    #[must_use]
    pub fn expected_deferral_rate(mut self, rate: f64) -> Self {
        self.expected_deferral_rate = Some(rate);
        self
    }

    /// How long after it was asked a query must be over that brings no deadline; for ever unless said.
    #[must_use]
    pub fn deadline(mut self, after: Duration) -> Self {
        self.deadline = Some(after);
        self
    }

    /// The clock behind deadlines, timings and the breaker; [`SystemClock`] unless said.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// # Errors
    /// [`ErrorKind::InvalidRequest`] if engine, policy or cloud is missing, or engine or policy is there beside slots;
    /// [`ErrorKind::Digest`] if the policy was calibrated on another model than the engine's.
    pub fn build(self) -> Result<Cascade> {
        let missing = |what| move || Error::new(ErrorKind::InvalidRequest, format!("the cascade has no {what}"));
        let cloud = self.cloud.ok_or_else(missing("cloud"))?;
        let models = match (self.slots, self.engine, self.policy) {
            (Some(slots), None, None) => Models::Slots(slots),
            (Some(_), ..) => {
                let message = "the cascade has slots, and an engine or a policy beside them";
                return Err(Error::new(ErrorKind::InvalidRequest, message));
            }
            (None, engine, policy) => {
                let engine = engine.ok_or_else(missing("engine"))?;
                let policy = policy.ok_or_else(missing("policy"))?;
                policy.check(engine.model_digest())?;
                Models::One(Model { engine, policy: Arc::new(policy) })
            }
        };
        let pause = u64::try_from(self.pause.as_millis()).unwrap_or(u64::MAX);
        let parts = Parts {
            device: Device { models, clock: Arc::clone(&self.clock) },
            cloud,
            queue: self.queue,
            on_cloud_failure: self.on_cloud_failure,
            breaker: Mutex::new(CircuitBreaker::new(self.failures, pause)),
            connectivity: self.connectivity,
            deferral_rate: DeferralRate::new(self.expected_deferral_rate),
            deadline: self.deadline,
            epoch: self.clock.now(),
            clock: self.clock,
        };
        Ok(Cascade { parts: Arc::new(parts), blocking: Arc::new(Blocking::default()) })
    }
}

impl Default for CascadeBuilder {
    fn default() -> Self {
        Self {
            engine: None,
            policy: None,
            slots: None,
            cloud: None,
            queue: Queue::default(),
            on_cloud_failure: OnCloudFailure::default(),
            failures: FAILURES,
            pause: PAUSE,
            connectivity: None,
            expected_deferral_rate: None,
            deadline: None,
            clock: Arc::new(SystemClock),
        }
    }
}

impl fmt::Debug for CascadeBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CascadeBuilder")
            .field("engine", &self.engine)
            .field("policy", &self.policy)
            .field("slots", &self.slots)
            .field("on_cloud_failure", &self.on_cloud_failure)
            .finish_non_exhaustive()
    }
}
