//! Updates of a model that serves: what is wrong never replaces what is right, and a request ends where it began.
#![expect(clippy::unwrap_used, reason = "a failed preparation fails the test")]

#[path = "../common/mod.rs"]
mod common;
mod kill;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use common::{Expected, edit_manifest, key, sign, toy};
use margay::bundle::{BundleOptions, archive};
use margay::{ErrorKind, Serving, Slots, SlotsOptions};

fn options() -> SlotsOptions {
    SlotsOptions { device: common::device(), ..SlotsOptions::default() }
}

fn open(folder: &Path) -> Slots {
    Slots::open(folder, options()).unwrap()
}

/// The toy under another name.
fn named(name: &str) -> tempfile::TempDir {
    let folder = toy();
    edit_manifest(folder.path(), |manifest| manifest["name"] = name.into());
    folder
}

fn name(serving: Option<Arc<Serving>>) -> Option<String> {
    serving.map(|serving| serving.bundle.manifest().name.clone())
}

/// That it computes, not only that it is there.
fn answers(serving: &Serving) {
    let expected = Expected::read();
    let logits = serving.engine.logits(&expected.prompt).unwrap();
    let largest = logits.iter().zip(expected.logits.last().unwrap()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(largest < 1e-4, "{largest}");
}

#[test]
fn a_bundle_is_staged_swapped_in_and_rolled_back() {
    let root = tempfile::tempdir().unwrap();
    let slots = open(root.path());
    assert!(slots.serving().is_none() && !slots.is_staged() && !slots.can_roll_back());
    assert_eq!(slots.swap().unwrap_err().kind(), ErrorKind::InvalidRequest);
    assert_eq!(slots.roll_back().unwrap_err().kind(), ErrorKind::InvalidRequest);

    answers(&slots.update(named("one").path()).unwrap());
    let before = slots.serving().unwrap();
    slots.stage(named("two").path()).unwrap();
    assert_eq!(name(slots.serving()), Some("one".into()), "staged is not served");
    slots.swap().unwrap();
    assert_eq!(name(slots.serving()), Some("two".into()));
    answers(&before);
    assert!(slots.can_roll_back() && !slots.is_staged());
    slots.roll_back().unwrap();
    assert_eq!(name(slots.serving()), Some("one".into()));

    // The third takes the place of the second, on which nobody works any more; on the first somebody still does.
    slots.update(named("three").path()).unwrap();
    answers(&before);
    assert_eq!(name(slots.serving()), Some("three".into()));
}

#[test]
fn a_restart_finds_what_served_and_what_was_staged() {
    let root = tempfile::tempdir().unwrap();
    let slots = open(root.path());
    slots.update(named("one").path()).unwrap();
    slots.stage(named("two").path()).unwrap();
    let error = Slots::open(root.path(), options()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Store, "one process at a time");
    drop(slots);

    let slots = open(root.path());
    assert!(slots.recovered().is_none());
    assert_eq!(name(slots.serving()), Some("one".into()));
    assert!(slots.is_staged());
    slots.swap().unwrap();
    drop(slots);
    let slots = open(root.path());
    assert_eq!(name(slots.serving()), Some("two".into()));
    slots.roll_back().unwrap();
    assert_eq!(name(slots.serving()), Some("one".into()));
}

#[test]
fn an_archive_is_staged_without_a_copy_in_the_cache() {
    let (root, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = out.path().join("two.margay");
    archive::pack(&margay::Bundle::open(named("two").path()).unwrap(), &file).unwrap();
    let cache = out.path().join("cache");
    let bundle = BundleOptions { cache: Some(cache.clone()), ..BundleOptions::default() };
    let slots = Slots::open(root.path(), SlotsOptions { bundle, ..options() }).unwrap();
    answers(&slots.update(&file).unwrap());
    assert!(!cache.exists());
}

#[test]
fn what_is_wrong_with_an_update_is_said_and_the_old_one_serves_on() {
    let root = tempfile::tempdir().unwrap();
    let one = named("one");
    sign(one.path(), &[key(1)]);
    let bundle = BundleOptions::signed_by([common::public(&key(1))]);
    let slots = Slots::open(root.path(), SlotsOptions { bundle, ..options() }).unwrap();
    slots.update(one.path()).unwrap();

    let unsigned = named("two");
    let changed = named("two");
    sign(changed.path(), &[key(1)]);
    fs::write(changed.path().join("tokenizer.json"), "{}").unwrap();
    // Signed, whole, and computes something else than it says.
    let wrong = named("two");
    edit_manifest(wrong.path(), |manifest| manifest["canary"]["logits"][0] = 9.0.into());
    sign(wrong.path(), &[key(1)]);
    let cases = [
        (unsigned.path(), ErrorKind::Signature),
        (changed.path(), ErrorKind::Digest),
        (wrong.path(), ErrorKind::Inference),
        (Path::new("nowhere"), ErrorKind::Io),
    ];
    for (path, kind) in cases {
        let error = slots.update(path).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert_eq!(name(slots.serving()), Some("one".into()));
        answers(&slots.serving().unwrap());
    }
    drop(slots);
    assert_eq!(name(open(root.path()).serving()), Some("one".into()));
}

#[test]
fn a_bundle_that_was_damaged_gives_way_to_the_one_before() {
    let root = tempfile::tempdir().unwrap();
    let slots = open(root.path());
    slots.update(named("one").path()).unwrap();
    let two = slots.update(named("two").path()).unwrap().bundle.root().to_owned();
    drop(slots);
    fs::write(two.join("weights.bin"), "moths").unwrap();

    let slots = open(root.path());
    assert_eq!(name(slots.serving()), Some("one".into()));
    assert_eq!(slots.recovered().unwrap().kind(), ErrorKind::Digest);
    assert!(!slots.can_roll_back());
    // From then on it is the one that serves.
    drop(slots);
    let slots = open(root.path());
    assert!(slots.recovered().is_none());
    let one = slots.serving().unwrap().bundle.root().to_owned();
    drop(slots);

    // With nothing to give way to, nothing serves, until something new comes.
    fs::remove_file(one.join("model.onnx")).unwrap();
    let slots = open(root.path());
    assert!(slots.serving().is_none());
    assert_eq!(slots.recovered().unwrap().kind(), ErrorKind::Bundle);
    answers(&slots.update(named("three").path()).unwrap());
}

#[test]
fn a_damaged_pointer_is_an_error() {
    for content in ["", "{}", r#"{"schema":1,"active":"a","previous":"a","staged":null}"#, &" ".repeat(1 << 12)] {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("slots.json"), content).unwrap();
        assert_eq!(Slots::open(root.path(), options()).unwrap_err().kind(), ErrorKind::Store, "{content}");
    }
}
