//! `margay bundle` from outside: keys, signatures, archives and differences, in words and as JSON.
#![expect(clippy::unwrap_used, reason = "a failed preparation fails the test")]

mod common;

use std::fs;
use std::process::Output;

use margay_evaluation::certificate::Certified;
use margay_evaluation::goal::Goal;
use margay_evaluation::outcome::Table;
use margay_evaluation::pairing::Pairing;
use serde_json::Value;

use common::{Place, succeeded};

impl Place {
    fn margay(&self, line: &str) -> Output {
        self.run(&format!("bundle {line}"))
    }

    fn ok(&self, line: &str) -> String {
        succeeded(line, self.margay(line))
    }

    fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.ok(&format!("{line} --json"))).unwrap()
    }

    /// Fails with this code, and says these words.
    fn refused(&self, line: &str, code: i32, words: &str) {
        let output = self.margay(line);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{line}: {message}");
        assert!(message.starts_with("error: ") && message.contains(words), "{line}: {message}");
    }
}

#[test]
fn a_bundle_is_signed_packed_sent_and_verified() {
    let place = Place::new();
    let public = place.json("keygen --out publisher")["public_key"].as_str().unwrap().to_owned();
    assert!(fs::read_to_string(place.path("publisher.pub")).unwrap().trim() == public);
    place.refused("keygen --out publisher", 1, "publisher.pub");

    place.refused("verify toy --trust publisher.pub", 1, "not signed");
    assert_eq!(place.json("sign toy --key publisher.key")["signers"], Value::from(vec![public.clone()]));
    place.ok("pack toy --out toy.margay");
    for bundle in ["toy", "toy.margay"] {
        let facts = place.json(&format!("verify {bundle} --trust {public}"));
        assert_eq!((facts["trusted"].as_bool(), facts["files"].as_u64()), (Some(true), Some(3)), "{bundle}");
        assert!(place.ok(&format!("verify {bundle} --trust publisher.pub")).contains("which is trusted"));
    }
    place.ok("keygen --out stranger");
    place.refused("verify toy.margay --trust stranger.pub", 1, "which is not trusted");
    place.refused("unpack toy.margay --out elsewhere --trust stranger.pub", 1, "which is not trusted");
    assert!(!place.path("elsewhere").exists());
    place.refused("sign toy.margay --key publisher.key", 1, "sign the folder");

    place.ok("unpack toy.margay --out back --trust publisher.pub");
    assert_eq!(place.json("diff toy back")["same"], true);
    assert!(place.ok("diff toy toy.margay --exit-code").contains("the same bundle"));

    // The cache has a copy that is whole: what is verified is the file.
    let mut content = fs::read(place.path("toy.margay")).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    fs::write(place.path("toy.margay"), content).unwrap();
    place.refused("verify toy.margay", 1, "SHA-256");

    place.ok("sign toy --remove");
    assert!(place.ok("inspect toy").contains("nobody"));
}

#[test]
fn a_certificate_survives_signing_packing_and_loading() {
    let place = Place::new();
    let mut csv = String::from("query,model,quality,score,flops\n");
    for n in 0..400_u32 {
        // Sure answers are right; of the unsure ones every other is.
        let (score, right) = (-f64::from(n * 7 % 400) / 400.0, n * 7 % 400 < 200 || n % 2 == 0);
        csv.push_str(&format!("{n},small,{},{score},1\n{n},large,1,,20\n", u8::from(right)));
    }
    fs::write(place.path("outcomes.csv"), csv).unwrap();
    place.ok("keygen --out publisher");
    place.ok("sign toy --key publisher.key");
    let line = "calibrate --outcomes outcomes.csv --chain small,large --target risk<=0.1@0.9 --bundle toy";
    let output = place.run(line);
    assert!(String::from_utf8_lossy(&output.stderr).contains("is signed by"), "without the key it is refused");
    assert!(place.run(&format!("{line} --sign publisher.key")).status.success());
    place.ok("pack toy");
    let facts = place.json("inspect toy.margay");
    assert_eq!(facts["signers"].as_array().unwrap().len(), 1);

    // What the library says of the same table.
    let table = Table::read(&place.path("outcomes.csv")).unwrap();
    let pairing = Pairing::join(table.rows(), "small", "large").unwrap();
    let expected = "risk<=0.1@0.9".parse::<Goal>().unwrap().choose(&pairing).unwrap();
    let mut expected = expected.certified().unwrap().clone();
    expected.certificate = expected.certificate.for_model(facts["model_digest"].as_str().unwrap());
    let carried: Certified = serde_json::from_value(facts["policy"]["certificates"][0].clone()).unwrap();
    assert_eq!(carried, expected);
    let report = place.json("inspect toy")["manifest"]["files"].to_string();
    assert!(report.contains("calibration.json"), "the numbers behind it are there too: {report}");
}

#[test]
fn what_two_bundles_differ_in_is_named() {
    let place = Place::new();
    place.ok("pack toy --out other.margay");
    place.ok("unpack other.margay --out other");
    let manifest = place.path("other/manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("CC0-1.0", "MIT").replace("\"layers\": 2", "\"layers\": 3")).unwrap();
    let facts = place.json("diff toy other");
    assert_eq!((facts["same"].as_bool(), facts["same_model"].as_bool()), (Some(false), Some(false)));
    let fields: Vec<&str> = facts["differences"]
        .as_array()
        .unwrap()
        .iter()
        .map(|difference| difference["field"].as_str().unwrap())
        .collect();
    assert_eq!(fields, ["licence", "model.layers"]);
    place.refused("diff toy other --exit-code", 1, "differ");
    assert!(place.ok("diff toy other").contains("licence: \"CC0-1.0\" -> \"MIT\""));
}

#[test]
fn what_is_wrong_with_a_command_is_said() {
    let place = Place::new();
    assert_eq!(place.margay("sign toy").status.code(), Some(2), "neither a key nor --remove");
    assert_eq!(place.margay("verify toy --trust ed25519:00").status.code(), Some(2));
    assert_eq!(place.margay("verify toy --trust nobody.pub").status.code(), Some(2));
    place.refused("inspect nowhere", 1, "nowhere");
    fs::write(place.path("toy/more.txt"), "unlisted").unwrap();
    place.refused("verify toy", 1, "more.txt");
    let facts = Place::new().json("inspect toy");
    assert_eq!(facts["manifest"]["name"], "toy");
    assert_eq!(facts["signers"], Value::Array(vec![]));
}
