//! A bundle that was damaged as a whole rather than byte by byte: files in each other's place, keys that are gone, lists
//! without end. Single bytes are in `bundle.rs`, `archive.rs` and `signature.rs`.
#![expect(clippy::unwrap_used, reason = "a failed preparation fails the test")]

mod common;

use std::fs;
use std::io::Write;
use std::path::Path;

use common::{edit_manifest, toy};
use margay::bundle::manifest::Manifest;
use margay::bundle::{BundleOptions, archive};
use margay::{Bundle, ErrorKind};
use serde_json::{Value, json};

fn kind(folder: &Path) -> ErrorKind {
    Bundle::open(folder).unwrap_err().kind()
}

#[test]
fn files_in_each_others_place_are_noticed() {
    let names = ["model.onnx", "tokenizer.json", "weights.bin"];
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        let folder = toy();
        let [a, b, aside] = [names[a], names[b], "aside"].map(|name| folder.path().join(name));
        fs::rename(&a, &aside).unwrap();
        fs::rename(&b, &a).unwrap();
        fs::rename(&aside, &b).unwrap();
        assert_eq!(kind(folder.path()), ErrorKind::Digest);
    }
    // Nor does it help that they have one length.
    let folder = toy();
    let path = |name: &str| folder.path().join(name);
    for (name, content) in [("a.bin", [1; 9]), ("b.bin", [2; 9])] {
        fs::write(path(name), content).unwrap();
    }
    common::relist(folder.path());
    Bundle::open(folder.path()).unwrap();
    fs::write(path("a.bin"), [2; 9]).unwrap();
    fs::write(path("b.bin"), [1; 9]).unwrap();
    assert_eq!(kind(folder.path()), ErrorKind::Digest);
}

#[test]
fn two_entries_of_a_manifest_that_change_places_are_noticed() {
    let folder = toy();
    edit_manifest(folder.path(), |manifest| manifest["files"].as_array_mut().unwrap().swap(0, 2));
    assert_eq!(kind(folder.path()), ErrorKind::Bundle);
    let folder = toy();
    edit_manifest(folder.path(), |manifest| {
        let files = manifest["files"].as_array_mut().unwrap();
        let (a, b) = (files[0]["path"].clone(), files[1]["path"].clone());
        (files[0]["path"], files[1]["path"]) = (b, a);
        files.swap(0, 1);
    });
    assert_eq!(kind(folder.path()), ErrorKind::Digest);
}

/// Ten million entries are refused for their length, before the first is looked at, in a folder and in an archive.
#[test]
fn a_manifest_of_ten_million_entries_is_refused() {
    const ENTRIES: usize = 10_000_000;
    let folder = toy();
    let path = folder.path().join("manifest.json");
    let file = fs::File::create(&path).unwrap();
    let mut out = std::io::BufWriter::new(&file);
    out.write_all(b"{\"files\":[{}").unwrap();
    (1..ENTRIES).for_each(|_| out.write_all(b",{}").unwrap());
    out.write_all(b"]}").unwrap();
    out.flush().unwrap();
    drop(out);
    let length = file.metadata().unwrap().len();
    assert!(length > 3 * ENTRIES as u64);
    let error = Bundle::open(folder.path()).unwrap_err();
    assert!(error.kind() == ErrorKind::Bundle && error.to_string().contains("longer than"), "{error}");

    let mut header = tar::Header::new_ustar();
    header.set_path("manifest.json").unwrap();
    header.set_size(length);
    header.set_mode(0o644);
    header.set_cksum();
    let error = archive::verify_stream(ThenFails(header.as_bytes()), &BundleOptions::default()).unwrap_err();
    assert!(error.kind() == ErrorKind::Bundle && error.to_string().contains("more than"), "{error}");
}

/// A reader that fails as soon as anything is asked for behind what it holds.
struct ThenFails<'a>(&'a [u8]);

impl std::io::Read for ThenFails<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self.0.is_empty() {
            true => Err(std::io::Error::other("more was read than had to be")),
            false => self.0.read(buffer),
        }
    }
}

/// A manifest in which every field is filled.
fn full(folder: &Path) -> Value {
    let mut manifest: Value = serde_json::from_slice(&fs::read(folder.join("manifest.json")).unwrap()).unwrap();
    manifest["golden"] = json!([{
        "text": "cats", "ids": [5, 6], "positions": [{"position": 0, "top": [[9, 2.5]]}], "tolerance": 0.01,
        "greedy": {"ids": [7], "text": "x"},
    }]);
    manifest["measurements"] = json!([{"quantity": "perplexity", "data": "d", "sample_size": 1, "after": 2.0}]);
    manifest["variants"] = json!([{
        "name": "gpu", "device": "gpu", "providers": ["cuda"], "graph": "variants/gpu/model.onnx", "quantization": "f16",
        "canary": manifest["canary"],
    }]);
    let mut graph = manifest["files"][0].clone();
    graph["path"] = "variants/gpu/model.onnx".into();
    manifest["files"].as_array_mut().unwrap().insert(2, graph);
    manifest
}

/// Paths of all keys of all objects.
fn keys(value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                let path = format!("{path}/{key}");
                keys(value, &path, found);
                found.push(path);
            }
        }
        Value::Array(list) => list.iter().take(1).for_each(|value| keys(value, &format!("{path}/0"), found)),
        _ => {}
    }
}

#[test]
fn a_key_that_is_gone_is_named_unless_it_is_one_that_need_not_be_there() {
    let optional =
        ["/golden", "/golden/0/text", "/golden/0/greedy", "/measurements", "/provenance/", "/prompt/special_tokens"];
    let folder = toy();
    let full = full(folder.path());
    Manifest::parse(full.to_string().as_bytes()).unwrap();
    let mut all = vec![];
    keys(&full, "", &mut all);
    assert!(all.len() > 50, "{all:?}");
    for path in all {
        let (parent, key) = path.rsplit_once('/').unwrap();
        let mut manifest = full.clone();
        manifest.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(key);
        let may = |optional: &&str| path == **optional || optional.ends_with('/') && path.starts_with(*optional);
        match Manifest::parse(manifest.to_string().as_bytes()) {
            Ok(_) => assert!(optional.iter().any(may) || path.starts_with("/prompt/special_tokens/"), "{path}"),
            // Files of a variant that is not there belong to nobody.
            Err(error) if path == "/variants" => assert!(error.to_string().contains("no variant"), "{error}"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Bundle, "{path}: {error}");
                assert!(error.to_string().contains(&format!("missing field `{key}`")), "{path}: {error}");
            }
        }
    }
}
