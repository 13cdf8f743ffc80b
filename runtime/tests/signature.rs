//! Who vouches for a bundle: signatures made by another program are accepted, and nothing else is.

mod common;

use std::fs;
use std::path::Path;

use common::{edit_manifest, fixtures, key, sign, toy};
use margay::bundle::signature::{MAX_SIGNATURES, Signatures};
use margay::bundle::{BundleOptions, PublicKey};
use margay::{Bundle, Error, ErrorKind};
use proptest::prelude::*;
use serde_json::{Value, json};

fn open(folder: &Path, trusted: &[PublicKey]) -> Result<Bundle, Error> {
    Bundle::open_with(folder, &BundleOptions::signed_by(trusted.iter().copied()))
}

#[test]
fn another_implementation_s_signature_is_accepted() {
    let fixture: Value = serde_json::from_slice(&fs::read(fixtures().join("signature.json")).unwrap()).unwrap();
    let file = json!({
        "schema": 1,
        "signatures": [{"key": fixture["public_key"], "signature": fixture["signature"]}],
    });
    let signatures = Signatures::parse(file.to_string().as_bytes()).unwrap();
    let manifest = fixture["manifest"].as_str().unwrap().as_bytes();
    let signers = signatures.verify(manifest).unwrap();
    assert_eq!(signers, [fixture["public_key"].as_str().unwrap().parse().unwrap()]);
    assert_eq!(signatures.verify(&manifest[1..]).unwrap_err().kind(), ErrorKind::Signature);
    // The same key and bytes give the same signature here: ed25519 has no randomness.
    let own = common::signature(&key(0), manifest);
    assert_eq!(Signatures::none().with(common::public(&key(0)), own), signatures);
}

#[test]
fn a_signature_is_required_only_if_it_is_and_of_a_trusted_key() {
    let (ours, theirs) = (common::public(&key(1)), common::public(&key(2)));
    let folder = toy();
    let bundle = Bundle::open(folder.path()).unwrap();
    assert!(bundle.signers().is_empty());
    let error = open(folder.path(), &[ours]).unwrap_err();
    assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Signature, "the bundle is not signed"));

    sign(folder.path(), &[key(1)]);
    assert_eq!(Bundle::open(folder.path()).unwrap().signers(), [ours], "verified, whoever is trusted");
    open(folder.path(), &[ours]).unwrap();
    open(folder.path(), &[theirs, ours]).unwrap();
    let error = open(folder.path(), &[theirs]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Signature);
    assert!(error.to_string().contains(&ours.to_string()), "{error}");
    assert_eq!(open(folder.path(), &[]).unwrap_err().kind(), ErrorKind::InvalidRequest);

    sign(folder.path(), &[key(1), key(2)]);
    open(folder.path(), &[theirs]).unwrap();
}

#[test]
fn whoever_changes_the_manifest_cannot_keep_the_signature() {
    let folder = toy();
    sign(folder.path(), &[key(1)]);
    edit_manifest(folder.path(), |manifest| manifest["licence"] = "MIT".into());
    for opened in [Bundle::open(folder.path()), open(folder.path(), &[common::public(&key(1))])] {
        assert_eq!(opened.unwrap_err().kind(), ErrorKind::Signature);
    }
    // And no other file can be changed without the manifest.
    let folder = toy();
    sign(folder.path(), &[key(1)]);
    let path = folder.path().join("weights.bin");
    let mut weights = fs::read(&path).unwrap();
    weights[1000] ^= 1;
    fs::write(&path, weights).unwrap();
    assert_eq!(open(folder.path(), &[common::public(&key(1))]).unwrap_err().kind(), ErrorKind::Digest);
}

#[test]
fn a_malformed_signature_file_is_refused() {
    let folder = toy();
    sign(folder.path(), &[key(1)]);
    let path = folder.path().join("manifest.sig");
    let good: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let spoilt = |spoil: fn(&mut Value)| {
        let mut value = good.clone();
        spoil(&mut value);
        value.to_string()
    };
    let one = &good["signatures"][0];
    let many: Vec<Value> = (0..=MAX_SIGNATURES as u8)
        .map(|n| json!({"key": common::public(&key(n)), "signature": one["signature"]}))
        .collect();
    let contents = [
        (String::new(), ErrorKind::Bundle),
        ("{}".into(), ErrorKind::Bundle),
        (spoilt(|file| file["schema"] = 2.into()), ErrorKind::Bundle),
        (spoilt(|file| file["more"] = 2.into()), ErrorKind::Bundle),
        (spoilt(|file| file["signatures"] = json!([])), ErrorKind::Bundle),
        (spoilt(|file| file["signatures"] = json!([file["signatures"][0], file["signatures"][0]])), ErrorKind::Bundle),
        (json!({"schema": 1, "signatures": many}).to_string(), ErrorKind::Bundle),
        (spoilt(|file| file["signatures"][0]["key"] = "ed25519:00".into()), ErrorKind::Bundle),
        // The point at infinity, for which a signature is easily made.
        (
            spoilt(|file| file["signatures"][0]["key"] = format!("ed25519:01{}", "0".repeat(62)).into()),
            ErrorKind::Bundle,
        ),
        (spoilt(|file| file["signatures"][0]["signature"] = "00".into()), ErrorKind::Signature),
        (spoilt(|file| file["signatures"][0]["signature"] = "0".repeat(128).into()), ErrorKind::Signature),
        (" ".repeat(1 << 20), ErrorKind::Bundle),
    ];
    for (content, kind) in contents {
        fs::write(&path, &content).unwrap();
        let error = Bundle::open(folder.path()).unwrap_err();
        assert_eq!(error.kind(), kind, "{content}: {error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Of a signed bundle every byte is vouched for, those of the manifest and its signature included.
    #[test]
    fn no_byte_of_a_signed_bundle_can_be_changed(file in 0..5_usize, at in any::<prop::sample::Index>(), mask in 1..=u8::MAX) {
        let folder = toy();
        sign(folder.path(), &[key(1)]);
        let file = ["manifest.json", "manifest.sig", "model.onnx", "tokenizer.json", "weights.bin"][file];
        let path = folder.path().join(file);
        let mut content = fs::read(&path).unwrap();
        let at = at.index(content.len());
        content[at] ^= mask;
        fs::write(&path, &content).unwrap();
        match open(folder.path(), &[common::public(&key(1))]) {
            Err(error) => {
                let expected = [ErrorKind::Bundle, ErrorKind::Digest, ErrorKind::Signature];
                prop_assert!(expected.contains(&error.kind()), "{}", error);
            }
            // Only white space of the signature's own file may be other white space.
            Ok(_) => prop_assert!(file == "manifest.sig" && content[at].is_ascii_whitespace()),
        }
    }
}
