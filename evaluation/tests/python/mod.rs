//! The fixtures' scripts, run in a virtual environment with their pinned packages.
#![expect(clippy::unwrap_used, reason = "a failed preparation fails the test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// What a script prints, run in a virtual environment with the pinned packages, which is made once.
pub(crate) fn run(script: &str, arguments: &[&str]) -> String {
    let environment = Path::new(env!("CARGO_TARGET_TMPDIR")).join("scikit-learn");
    let requirements = fixtures().join("requirements.txt");
    std::fs::create_dir_all(&environment).unwrap();
    let lock = std::fs::File::create(environment.join("lock")).unwrap();
    lock.lock().unwrap();
    let ready = environment.join("ready");
    let interpreter = environment.join("venv/bin/python");
    let wanted = std::fs::read(&requirements).unwrap();
    if std::fs::read(&ready).is_ok_and(|installed| installed == wanted) {
        drop(lock);
    } else {
        let host = std::env::var_os("PYTHON").unwrap_or_else(|| "python3".into());
        succeed(Command::new(host).args(["-m", "venv", "--clear"]).arg(environment.join("venv")));
        let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:", "-r"];
        succeed(Command::new(&interpreter).args(install).arg(&requirements));
        std::fs::write(&ready, wanted).unwrap();
    }
    let output = succeed(Command::new(&interpreter).arg(fixtures().join(script)).args(arguments));
    String::from_utf8(output.stdout).unwrap()
}

fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}
