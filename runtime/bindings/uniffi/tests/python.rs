//! The Python package: its tests against real servers, its stubs against its code, the README's program, a wheel in a clean
//! virtual environment.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a failed preparation fails the test")]

mod scenario;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use scenario::{Scenario, UNIFFI_BINDGEN, bindings, environment, generate, library, succeed};

const PYTEST: &str = "pytest==9.2.0";
const MYPY: &str = "mypy==2.4.1";
const MATURIN: &str = "maturin==1.16.0";

/// The package as it is in a wheel: its sources, the generated module, the library.
fn package(into: &Path) -> PathBuf {
    let package = into.join("margay");
    fs::create_dir_all(&package).unwrap();
    for entry in fs::read_dir(bindings().join("python/margay")).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), package.join(entry.file_name())).unwrap();
        }
    }
    generate("python", &package);
    fs::copy(library(), package.join(library().file_name().unwrap())).unwrap();
    into.to_owned()
}

fn suite(python: &Path, path: Option<&Path>) {
    let scenario = Scenario::new();
    let mut pytest = Command::new(python);
    let root = bindings().join("python");
    pytest.args(["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--rootdir"]).arg(&root).arg(root.join("tests"));
    // Not from where the sources are: they would be found before what was installed.
    pytest.current_dir(scenario.scratch.path()).env("PYTHONDONTWRITEBYTECODE", "1").env("PYTHONSAFEPATH", "1");
    // What maturin builds has everything; what is beside the tests has what Cargo was asked for.
    match path {
        Some(path) => pytest.env("PYTHONPATH", path),
        None => pytest.env("MARGAY_CONSTRAINED", "1"),
    };
    if margay::Constraint::AVAILABLE {
        pytest.env("MARGAY_CONSTRAINED", "1");
    }
    let output = scenario.run(&mut pytest);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains(" passed") && !said.contains("skipped"), "{said}");
    scenario.check_what_left();
}

#[test]
#[ignore = "fetches pytest and mypy"]
fn the_suite_passes_and_the_stubs_are_those_of_the_code() {
    let python = environment("pytest", &[PYTEST, MYPY]);
    let folder = tempfile::tempdir().unwrap();
    let path = package(folder.path());
    suite(&python, Some(&path));
    let (stubs, made) = (bindings().join("python/margay/__init__.pyi"), {
        let mut make = Command::new(&python);
        make.arg(bindings().join("python/stubs.py")).arg(path.join("margay/__init__.py"));
        succeed(make.arg(path.join("margay/margay_uniffi.py"))).stdout
    });
    if std::env::var("MARGAY_STUBS").is_ok_and(|what| what == "write") {
        fs::write(&stubs, &made).unwrap();
    }
    assert!(
        fs::read(&stubs).unwrap() == made,
        "`MARGAY_STUBS=write cargo test -p margay-uniffi --test python -- --ignored`"
    );
    let mut stubtest = Command::new(&python);
    let settings = bindings().join("python/mypy.ini");
    stubtest.args(["-m", "mypy.stubtest", "margay", "--ignore-missing-stub", "--mypy-config-file"]).arg(settings);
    stubtest.arg("--allowlist").arg(bindings().join("python/stubtest.txt"));
    stubtest.env("MYPYPATH", &path);
    succeed(stubtest.env("PYTHONPATH", &path).current_dir(folder.path()));
    let mut mypy = Command::new(&python);
    let example = bindings().join("python/examples/ask.py");
    mypy.args(["-m", "mypy", "--strict"]).arg(example).env("MYPYPATH", &path).current_dir(folder.path());
    succeed(&mut mypy);
}

#[test]
fn the_example_asks_and_is_under_forty_lines() {
    let program = bindings().join("python/examples/ask.py");
    assert!(fs::read_to_string(&program).unwrap().lines().count() < 40);
    let scenario = Scenario::new();
    let path = package(scenario.scratch.path());
    let mut command = Command::new("python3");
    command.arg(&program).env("PYTHONPATH", path);
    let said = scenario.example(&mut command);
    // What the device's few tokens score depends on the processor's arithmetic.
    let (before, after) = said.split_once("[cloud: score -").unwrap_or_else(|| panic!("{said}"));
    assert!(before.ends_with(" ... no, wait:\nbook a flight\n"), "{said}");
    assert!(after.ends_with(", threshold inf, early-low-confidence]\n"), "{said}");
}

#[test]
#[ignore = "slow: maturin builds the library anew, in release"]
fn the_wheel_installs_into_a_clean_environment_and_passes_the_suite() {
    let maturin = environment("maturin", &[MATURIN, UNIFFI_BINDGEN]);
    let folder = tempfile::tempdir().unwrap();
    let programs = [maturin.parent().unwrap().to_owned()];
    let path = std::env::split_paths(&std::env::var_os("PATH").unwrap()).collect::<Vec<_>>();
    let mut build = Command::new(&maturin);
    build.env("PATH", std::env::join_paths(programs.iter().chain(&path)).unwrap());
    build.args(["-m", "maturin", "build", "--release", "--locked", "--out"]).arg(folder.path());
    // It is the package that is tested: how fast it is may wait.
    build.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1").env("CARGO_PROFILE_RELEASE_DEBUG", "0");
    succeed(build.current_dir(bindings().join("python")));
    let wheels: Vec<PathBuf> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    let [wheel] = &wheels[..] else { panic!("one wheel, not {wheels:?}") };
    succeed(Command::new("python3").args(["-m", "venv"]).arg(folder.path().join("venv")));
    let python = folder.path().join("venv/bin/python");
    let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    succeed(Command::new(&python).args(install).arg(wheel).arg(PYTEST));
    suite(&python, None);
}
