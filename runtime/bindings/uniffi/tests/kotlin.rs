//! The Kotlin bindings on the JVM: the suite, the README's program, and an Android archive that holds what it should.
//!
//! The compiler and kotlinx-coroutines come from the Python package `kotlin-jupyter-kernel`, JNA from Debian (`libjna-java`), or
//! from where `MARGAY_JNA` says.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a failed preparation fails the test")]

#[expect(dead_code, reason = "Kotlin has a script that generates")]
mod scenario;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use scenario::{Scenario, UNIFFI_BINDGEN, bindings, cache, environment, library, succeed};

const KOTLIN: &str = "kotlin-jupyter-kernel==0.19.0.944";

/// Kotlin's compiler, standard library and coroutines, and JNA.
struct Toolchain {
    jars: Vec<PathBuf>,
}

impl Toolchain {
    fn find() -> Self {
        let folder = cache("kotlin");
        let lock = fs::File::create(folder.join("lock")).unwrap();
        lock.lock().unwrap();
        let jars = folder.join(KOTLIN).join("run_kotlin_kernel/jars");
        if !jars.is_dir() {
            let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target"];
            let into = folder.join("installing");
            succeed(Command::new("python3").args(install).arg(&into).arg(KOTLIN));
            fs::rename(into, folder.join(KOTLIN)).unwrap();
        }
        let starts = |name: &str| {
            let mut jars = fs::read_dir(&jars).unwrap().map(|entry| entry.unwrap().path());
            jars.find(|jar| jar.file_name().unwrap().to_str().unwrap().starts_with(name)).unwrap()
        };
        let jna = std::env::var_os("MARGAY_JNA").unwrap_or_else(|| "/usr/share/java/jna.jar".into());
        Self { jars: vec![starts("kotlin-jupyter-kernel-"), starts("kotlin-stdlib-"), jna.into()] }
    }

    fn class_path(&self, more: &[&Path]) -> OsString {
        std::env::join_paths(self.jars.iter().map(PathBuf::as_path).chain(more.iter().copied())).unwrap()
    }

    /// Compiles sources against what was compiled before.
    fn compile(&self, sources: &[PathBuf], before: &[&Path], into: &Path) {
        let mut java = Command::new("java");
        java.arg("-cp").arg(self.class_path(&[])).arg("org.jetbrains.kotlin.cli.jvm.K2JVMCompiler");
        java.args(["-no-stdlib", "-no-reflect", "-nowarn", "-jvm-target", "17", "-cp"]).arg(self.class_path(before));
        succeed(java.args(sources).arg("-d").arg(into));
    }

    /// A program whose class path is what was compiled.
    fn run(&self, classes: &[&Path], main: &str) -> Command {
        let mut java = Command::new("java");
        let mut folder = OsString::from("-Djna.library.path=");
        folder.push(library().parent().unwrap());
        java.arg(folder).arg("-cp").arg(self.class_path(classes)).arg(main);
        java
    }
}

/// The bindings, compiled.
fn compiled(kotlin: &Toolchain, folder: &Path) -> PathBuf {
    let (sources, classes) = (folder.join("generated"), folder.join("margay.jar"));
    let generator = environment("uniffi-bindgen", &[UNIFFI_BINDGEN]);
    let path = std::env::split_paths(&std::env::var_os("PATH").unwrap()).collect::<Vec<_>>();
    let path = std::env::join_paths([generator.parent().unwrap().to_owned()].iter().chain(&path)).unwrap();
    let mut script = Command::new(bindings().join("kotlin/generate.sh"));
    succeed(script.arg(library()).arg(&sources).env("PATH", path));
    let sources = [sources.join("dev/margay/margay_uniffi.kt"), bindings().join("kotlin/src/Streams.kt")];
    kotlin.compile(&sources, &[], &classes);
    classes
}

#[test]
#[ignore = "needs a JVM and JNA, and fetches Kotlin's compiler"]
fn the_suite_passes_the_example_asks_in_under_forty_lines_and_an_archive_is_packed() {
    let kotlin = Toolchain::find();
    let scenario = Scenario::new();
    let classes = compiled(&kotlin, scenario.scratch.path());

    let suite = scenario.scratch.path().join("suite.jar");
    kotlin.compile(&[bindings().join("kotlin/tests/Suite.kt")], &[&classes], &suite);
    let output = scenario.run(&mut kotlin.run(&[&classes, &suite], "SuiteKt"));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.ends_with(" tests held\n"), "{said}");
    scenario.check_what_left();

    let program = bindings().join("kotlin/examples/Ask.kt");
    assert!(fs::read_to_string(&program).unwrap().lines().count() < 40);
    let example = scenario.scratch.path().join("example.jar");
    kotlin.compile(&[program], &[&classes], &example);
    let said = scenario.example(&mut kotlin.run(&[&classes, &example], "AskKt"));
    let end = " ... no, wait:\nbook a flight\n[cloud: score ";
    assert!(said.contains(end) && said.ends_with(", threshold Infinity, early-low-confidence]\n"), "{said}");

    let archive = scenario.scratch.path().join("margay.aar");
    pack(&classes, scenario.scratch.path(), &archive);
    let output = succeed(Command::new("python3").args(["-m", "zipfile", "-l"]).arg(&archive));
    let listed = String::from_utf8(output.stdout).unwrap();
    for part in ["AndroidManifest.xml ", "classes.jar ", "proguard.txt ", "R.txt ", "jni/x86_64/libmargay_uniffi.so "] {
        assert!(listed.contains(part), "{listed}");
    }
}

/// Packs an Android archive. There is no NDK here: the library of this machine stands in for those of Android.
fn pack(classes: &Path, scratch: &Path, archive: &Path) {
    let libraries = scratch.join("jni");
    fs::create_dir_all(libraries.join("x86_64")).unwrap();
    fs::copy(library(), libraries.join("x86_64").join(library().file_name().unwrap())).unwrap();
    let mut script = Command::new(bindings().join("kotlin/aar.sh"));
    succeed(script.arg(archive).env("MARGAY_JNI", libraries).env("MARGAY_CLASSES", classes));
}
