//! What can be served: a small model, a large one, or both as a cascade. Each takes the same question and gives the same
//! reply, whole or piece by piece.

mod cascade;
mod cloud;
mod device;
mod reply;

use std::pin::Pin;
use std::sync::Arc;

use futures_core::Stream;
use margay::bundle::CalibratedPolicy;
use margay::cloud::LargeModel;
use margay::stores::Budget;
use margay::{Cascade, Engine, Request, Result};

use self::device::Device;
pub(super) use self::reply::{Account, Reply, TokenText};
use super::wire::Refusal;

/// The models behind a server. Clones share them.
#[derive(Clone)]
pub struct Model {
    device: Option<Device>,
    cloud: Option<Arc<dyn LargeModel>>,
    cascade: Option<Cascade>,
    budget: Option<Budget>,
}

/// One question, and how its answer is to come.
#[derive(Debug, Clone)]
pub(super) struct Question {
    pub(super) request: Request,
    /// What is shown of the device's answer before the verdict.
    pub(super) mode: margay::Stream,
    /// Whether it must not leave the device.
    pub(super) local_only: bool,
    /// Whether the reply names its tokens and how likely they were.
    pub(super) log_probabilities: bool,
}

/// A piece of a reply.
#[derive(Debug)]
pub(super) enum Piece {
    /// More text, whose it is, and the tokens behind it if they were asked for.
    Text { text: String, origin: &'static str, tokens: Vec<TokenText> },
    /// What was shown so far is not the answer.
    Superseded(Option<&'static str>),
    /// The end; its text was shown before.
    End(Box<Reply>),
}

/// A reply as it comes. Dropped, it cancels the request.
pub(super) type Pieces = Pin<Box<dyn Stream<Item = Result<Piece>> + Send>>;

/// Who answers a question.
enum Way<'a> {
    Device(&'a Device),
    Cascade(&'a Cascade, &'a Device),
    /// With the reason why the device was not asked, if there is one.
    Cloud(&'a Arc<dyn LargeModel>, Option<&'static str>),
}

impl Model {
    /// A small model alone. Its answers stand whatever its policy says; the verdict is told.
    #[must_use]
    pub fn device(engine: Arc<Engine>, policy: Option<&CalibratedPolicy>) -> Self {
        let device = Some(Device::new(engine, policy));
        Self { device, cloud: None, cascade: None, budget: None }
    }

    /// A large model alone.
    #[must_use]
    pub fn cloud(cloud: Arc<dyn LargeModel>) -> Self {
        Self { device: None, cloud: Some(cloud), cascade: None, budget: None }
    }

    /// A cascade, made of this engine and this large model.
    #[must_use]
    pub fn cascade(
        cascade: Cascade,
        engine: Arc<Engine>,
        policy: &CalibratedPolicy,
        cloud: Arc<dyn LargeModel>,
    ) -> Self {
        let device = Some(Device::new(engine, Some(policy)));
        Self { device, cloud: Some(cloud), cascade: Some(cascade), budget: None }
    }

    /// The same, with the account of what its cloud costs.
    #[must_use]
    pub fn budget(mut self, budget: Option<Budget>) -> Self {
        self.budget = budget;
        self
    }

    /// The account of what the cloud costs, if there is one.
    pub(super) fn account(&self) -> Option<&Budget> {
        self.budget.as_ref()
    }

    /// The small model's engine, which alone can go on with a raw text.
    pub(super) fn engine(&self) -> Option<&Arc<Engine>> {
        self.device.as_ref().map(Device::engine)
    }

    /// Answers with the device alone, whatever the verdict.
    pub(super) fn on_device(&self) -> Option<Self> {
        let device = self.device.clone()?;
        Some(Self { device: Some(device), cloud: None, cascade: None, budget: None })
    }

    /// # Errors
    /// [`Refusal`] for a question that nobody here can answer; the [`margay::Error`] of whoever was asked.
    pub(super) async fn answer(&self, question: Question) -> Result<Reply, Refusal> {
        Ok(match self.way(&question)? {
            Way::Device(device) => device.answer(question).await?,
            Way::Cascade(cascade, device) => cascade::answer(cascade, device.engine(), question).await?,
            Way::Cloud(cloud, why) => cloud::answer(cloud, question.request, why).await?,
        })
    }

    /// # Errors
    /// [`Refusal`] for a question that nobody here can answer.
    pub(super) fn stream(&self, question: Question) -> Result<Pieces, Refusal> {
        Ok(match self.way(&question)? {
            Way::Device(device) => device.stream(question),
            Way::Cascade(cascade, device) => cascade::stream(cascade, device.engine(), question),
            Way::Cloud(cloud, why) => cloud::stream(cloud, question.request, why),
        })
    }

    fn way(&self, question: &Question) -> Result<Way<'_>, Refusal> {
        // The small model is not told of functions: a question with some is for the large one.
        let tools = !question.request.tools.is_empty();
        match (&self.cascade, &self.device, &self.cloud) {
            (_, None, _) if question.local_only => Err(Refusal::invalid("there is no model on this device")),
            (_, _, None) if tools => Err(Refusal::unsupported("tools")),
            _ if tools && question.local_only => Err(Refusal::unsupported("tools")),
            (_, _, Some(cloud)) if tools => Ok(Way::Cloud(cloud, Some("tools"))),
            (Some(cascade), Some(device), _) => Ok(Way::Cascade(cascade, device)),
            (_, Some(device), _) => Ok(Way::Device(device)),
            (_, None, Some(cloud)) => Ok(Way::Cloud(cloud, None)),
            (_, None, None) => Err(Refusal::invalid("there is no model here")),
        }
    }
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { device, cloud, cascade, budget } = self;
        f.debug_struct("Model")
            .field("device", device)
            .field("cloud", &cloud.is_some())
            .field("cascade", cascade)
            .field("budget", budget)
            .finish()
    }
}
