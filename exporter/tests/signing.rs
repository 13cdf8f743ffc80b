//! Keys that other programs read and write, and bundles that never carry a signature of something else.
#![expect(clippy::unwrap_used, reason = "a failed preparation fails the test")]

use std::fs;
use std::path::Path;

use margay::Bundle;
use margay::bundle::{BundleOptions, CalibratedPolicy};
use margay::policy::{Policy, Rule, Threshold};
use margay_exporter::{ErrorKind, SecretKey, remove_signatures, sign, write_policy};
use serde_json::{Value, json};

/// The runtime's toy bundle, in a folder of its own.
fn toy(folder: &Path) -> Bundle {
    let root = folder.join("toy");
    fs::create_dir(&root).unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtime/tests/fixtures/toy");
    for entry in fs::read_dir(fixture).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), root.join(entry.file_name())).unwrap();
    }
    Bundle::open(root).unwrap()
}

fn policy(bundle: &Bundle) -> CalibratedPolicy {
    CalibratedPolicy::by_hand(*bundle.model_digest(), Policy::new(Rule::ChowAverage, Threshold::new(-0.25).unwrap()))
}

#[cfg(unix)]
fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
}

#[test]
#[cfg(unix)]
fn a_key_that_another_program_wrote_is_read_and_ours_is_written_alike() {
    let fixture: Value = serde_json::from_str(include_str!("../../runtime/tests/fixtures/signature.json")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (theirs, ours) = (folder.path().join("theirs.key"), folder.path().join("ours.key"));
    fs::write(&theirs, fixture["secret_key_pem"].as_str().unwrap()).unwrap();
    set_mode(&theirs, 0o600);
    let key = SecretKey::read(&theirs).unwrap();
    assert_eq!(json!(key.public_key()), fixture["public_key"]);
    key.write_new(&ours).unwrap();
    assert_eq!(fs::read(&ours).unwrap(), fs::read(&theirs).unwrap());
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&ours).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(key.write_new(&ours).unwrap_err().kind(), ErrorKind::Io, "a key is never overwritten");
    let pem = fixture["secret_key_pem"].as_str().unwrap().lines().nth(1).unwrap();
    assert!(!format!("{key:?}").contains(pem), "printed nowhere");
}

#[test]
#[cfg(unix)]
fn what_is_no_key_or_open_to_others_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("my.key");
    SecretKey::generate().unwrap().write_new(&path).unwrap();
    let pem = fs::read_to_string(&path).unwrap();
    for mode in [0o640, 0o604, 0o644] {
        set_mode(&path, mode);
        let error = SecretKey::read(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Key);
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }
    set_mode(&path, 0o600);
    SecretKey::read(&path).unwrap();
    let secret = pem.lines().nth(1).unwrap();
    for content in
        [String::new(), pem.replace("PRIVATE", "PUBLIC"), pem.replace(secret, &secret[..40]), "\u{0}".repeat(9000)]
    {
        fs::write(&path, content).unwrap();
        let error = SecretKey::read(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Key);
        assert!(!error.to_string().contains(&secret[..8]), "nothing of the file is shown: {error}");
    }
    assert_eq!(SecretKey::read(&folder.path().join("none.key")).unwrap_err().kind(), ErrorKind::Io);
}

#[test]
fn signatures_stand_beside_each_other_and_can_be_taken_away() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = toy(folder.path());
    let (one, two) = (SecretKey::generate().unwrap(), SecretKey::generate().unwrap());
    let bundle = sign(&bundle, &one).unwrap();
    assert_eq!(bundle.signers(), [one.public_key()]);
    let bundle = sign(&sign(&bundle, &two).unwrap(), &one).unwrap();
    let mut keys = [one.public_key(), two.public_key()];
    keys.sort();
    assert_eq!(bundle.signers(), keys);
    Bundle::open_with(bundle.root(), &BundleOptions::signed_by([two.public_key()])).unwrap();
    assert!(remove_signatures(&bundle).unwrap().signers().is_empty());
    assert!(remove_signatures(&bundle).unwrap().signers().is_empty(), "twice is no error");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside the bundle");
}

#[test]
fn a_new_policy_is_signed_again_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (key, other) = (SecretKey::generate().unwrap(), SecretKey::generate().unwrap());
    let bundle = toy(folder.path());
    let report = json!({"schema": 1, "queries": 9});
    let bundle = write_policy(&bundle, &policy(&bundle), Some(&report), None).unwrap();
    assert!(bundle.policy().is_some() && bundle.signers().is_empty());
    let path = bundle.root().join("calibration.json");
    assert_eq!(serde_json::from_slice::<Value>(&fs::read(&path).unwrap()).unwrap(), report);

    let bundle = sign(&sign(&bundle, &key).unwrap(), &other).unwrap();
    let error = write_policy(&bundle, &policy(&bundle), None, None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Key);
    assert_eq!(Bundle::open(bundle.root()).unwrap().signers().len(), 2, "as it was before");

    let digest = *bundle.model_digest();
    let bundle = write_policy(&bundle, &policy(&bundle), None, Some(&key)).unwrap();
    assert_eq!(bundle.signers(), [key.public_key()], "the other has not seen this policy");
    assert!(!path.exists(), "the report belonged to the policy before");
    assert_eq!(*bundle.model_digest(), digest);
    Bundle::open_with(bundle.root(), &BundleOptions::signed_by([key.public_key()])).unwrap();
}
