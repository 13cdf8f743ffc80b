//! The Swift bindings: there is no Swift compiler here, so their syntax is checked by tree-sitter's grammar of Swift.
#![cfg(unix)]

#[expect(dead_code, reason = "nothing is run")]
mod scenario;

use std::fs;
use std::process::Command;

use scenario::{bindings, environment, generate, succeed};

const PACKAGES: [&str; 2] = ["tree-sitter==0.26.1", "tree-sitter-swift==0.7.4"];

#[test]
#[ignore = "fetches tree-sitter"]
fn what_is_generated_and_written_is_swift() {
    let python = environment("tree-sitter", &PACKAGES);
    let folder = tempfile::tempdir().unwrap();
    generate("swift", folder.path());
    for name in ["Margay.swift", "MargayFFI.h", "MargayFFI.modulemap"] {
        assert!(fs::metadata(folder.path().join(name)).unwrap().len() > 0, "{name}");
    }
    let generated = fs::read_to_string(folder.path().join("Margay.swift")).unwrap();
    for part in ["open func answer(request: Request)async throws", "public protocol TokenProvider", "case Deadline("] {
        assert!(generated.contains(part), "{part}");
    }
    let broken = folder.path().join("Broken.swift");
    fs::write(&broken, "public func broken( -> {").unwrap();
    let check = |source: &std::path::Path| {
        let mut command = Command::new(&python);
        command.arg(bindings().join("swift/check_syntax.py")).arg(source);
        command
    };
    assert!(!check(&broken).status().unwrap().success(), "the checker finds nothing");
    for source in [folder.path().join("Margay.swift"), bindings().join("swift/Sources/Streams.swift")] {
        succeed(&mut check(&source));
    }
}
