//! A cascade over slots: the model changes between two queries, never within one.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use margay::bundle::CalibratedPolicy;
use margay::cloud::{BoxFuture, CloudAnswer, LargeModel};
use margay::policy::{Policy, Rule, Threshold};
use margay::{Bundle, Cascade, Error, ErrorKind, OnCloudFailure, Origin, Request, Result, Slots, SlotsOptions};

use crate::cascade::{EXPECTED, request};
use crate::common::{device, edit_manifest, relist, toy};

/// Fails, and swaps the staged model in before: in the middle of the query that asks it.
struct Swapping(Arc<Slots>);

impl LargeModel for Swapping {
    fn answer<'a>(&'a self, _: &'a Request) -> BoxFuture<'a, Result<CloudAnswer>> {
        if self.0.is_staged() {
            self.0.swap().unwrap();
        }
        Box::pin(async { Err(Error::new(ErrorKind::Server, "failed on purpose")) })
    }
}

/// The toy that says another number of FLOPs, and so is another model, with a policy that defers everything.
fn model(flops: u64) -> tempfile::TempDir {
    let folder = toy();
    edit_manifest(folder.path(), |manifest| {
        manifest["model"]["flops_per_token"] = flops.into();
        manifest.as_object_mut().unwrap().remove("model_digest");
    });
    let digest = *Bundle::open(folder.path()).unwrap().model_digest();
    let policy = CalibratedPolicy::by_hand(digest, Policy::new(Rule::ChowAverage, Threshold::DEFER_ALL));
    fs::write(folder.path().join("policy.json"), serde_json::to_vec(&policy).unwrap()).unwrap();
    relist(folder.path());
    folder
}

fn slots(root: &Path) -> Arc<Slots> {
    Arc::new(Slots::open(root, SlotsOptions { device: device(), ..SlotsOptions::default() }).unwrap())
}

#[test]
fn a_query_ends_on_the_model_that_it_began_with() {
    let root = tempfile::tempdir().unwrap();
    let slots = slots(root.path());
    let cascade = Cascade::builder()
        .slots(Arc::clone(&slots))
        .cloud(Swapping(Arc::clone(&slots)))
        .on_cloud_failure(OnCloudFailure::FallBackToLocal)
        .build()
        .unwrap();
    let nothing = cascade.answer_blocking(request()).unwrap_err();
    assert!(nothing.kind() == ErrorKind::InvalidRequest && nothing.to_string().contains("serves"), "{nothing}");

    let first = *slots.update(model(1000).path()).unwrap().bundle.model_digest();
    slots.stage(model(2000).path()).unwrap();
    // The draft is stopped early, and made whole after the swap: by the model that began it.
    let answer = cascade.answer_blocking(request()).unwrap();
    assert!(!slots.is_staged(), "swapped while the query ran");
    assert_eq!((answer.origin, answer.model_digest), (Origin::Local, first));
    assert_eq!(answer.text, EXPECTED.greedy_text);
    let second = *slots.serving().unwrap().bundle.model_digest();
    assert_ne!(second, first);
    assert_eq!(cascade.answer_blocking(request()).unwrap().model_digest, second);
    slots.roll_back().unwrap();
    assert_eq!(cascade.answer_blocking(request()).unwrap().model_digest, first);
}

#[test]
fn slots_take_the_place_of_engine_and_policy() {
    let root = tempfile::tempdir().unwrap();
    let slots = slots(root.path());
    let cloud = || Swapping(Arc::clone(&slots));
    let serving = slots.update(model(1000).path()).unwrap();
    let both = Cascade::builder().slots(Arc::clone(&slots)).engine(Arc::clone(&serving.engine)).cloud(cloud()).build();
    assert_eq!(both.unwrap_err().kind(), ErrorKind::InvalidRequest);
    // A bundle without a policy decides nothing.
    slots.update(toy().path()).unwrap();
    let cascade = Cascade::builder().slots(Arc::clone(&slots)).cloud(cloud()).build().unwrap();
    let error = cascade.answer_blocking(request()).unwrap_err();
    assert!(error.kind() == ErrorKind::InvalidRequest && error.to_string().contains("without a policy"), "{error}");
}
