//! Headless Chromium, for the tests of every page that Margay shows.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a failed preparation fails the test")]

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;

const FLAGS: [&str; 11] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--allow-file-access-from-files",
    "--virtual-time-budget=5000",
];

fn chromium() -> PathBuf {
    if let Some(path) = std::env::var_os("MARGAY_CHROMIUM") {
        return path.into();
    }
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let found = names.iter().find(|name| Command::new(name).arg("--version").output().is_ok());
    found.expect("no Chromium: `apt-get install chromium`, or name one in MARGAY_CHROMIUM").into()
}

/// What Chromium prints; nothing may have been said on the page's console.
pub(crate) fn browse(arguments: &[impl AsRef<OsStr>]) -> String {
    let profile = tempfile::tempdir().unwrap();
    let user_data = format!("--user-data-dir={}", profile.path().display());
    let output = Command::new(chromium()).args(FLAGS).arg(user_data).args(arguments).output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && !log.contains("CONSOLE"), "{log}");
    String::from_utf8(output.stdout).unwrap()
}
