//! The status page in headless Chromium: it shows what happened without a word on the console, and fits a phone and a desk.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a failed preparation fails the test")]

#[path = "../../evaluation/tests/chromium/mod.rs"]
mod chromium;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use chromium::browse;

struct Serving(Child);

impl Drop for Serving {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

/// The toy as a server, and where it is.
fn serving() -> (Serving, String) {
    let toy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtime/tests/fixtures/toy");
    let mut child = Command::new(env!("CARGO_BIN_EXE_margay"))
        .args(["serve", "--listen", "127.0.0.1:0", "--json", "--log", "off", "--bundle"])
        .arg(toy)
        .env_remove("MARGAY_SERVE_TOKEN")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let ready: Value = serde_json::from_str(&line).unwrap();
    (Serving(child), ready["status"].as_str().unwrap().to_owned())
}

fn curl(arguments: &[&str]) -> String {
    let output = Command::new("curl").arg("-sSf").args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
#[ignore = "needs Chromium: `apt-get install chromium`, then `cargo test --workspace --test status_page -- --ignored`"]
fn the_status_page_shows_what_happened_on_a_phone_and_on_a_desk() {
    let (_server, url) = serving();
    let question = r#"{"model": "toy", "messages": [{"role": "user", "content": "a secret wish"}], "max_tokens": 4}"#;
    for _ in 0..3 {
        curl(&[&format!("{url}v1/chat/completions"), "-d", question]);
    }
    let dom = browse(&["--dump-dom", &url]);
    assert!(dom.contains("<h1 id=\"model\">toy</h1>"), "{dom}");
    assert!(dom.contains(">3 device, 0 cloud, 0 none<"), "{dom}");
    assert_eq!(dom.matches("<td class=\"local\">local</td>").count(), 3);
    assert!(dom.contains("no budget is configured") && !dom.contains("secret wish"));

    // How it is laid out is measured by a page around it, which the server forbids: so on a copy, with scores in its report.
    let folder = tempfile::tempdir().unwrap();
    let mut report: Value = serde_json::from_str(&curl(&[&format!("{url}status")])).unwrap();
    report["scores"] = serde_json::json!({"low": -2.0, "high": 0.0, "counts": [1, 4, 9, 30], "threshold": -0.9});
    report["deferral"] = serde_json::json!({"unsure": 5, "of": 44});
    report["last"][0]["reason"] = "early-low-confidence".into();
    let canned = format!("<script>window.fetch = async () => new Response({:?});</script>", report.to_string());
    let page = curl(&[&url]).replacen("<script>", &format!("{canned}<script>"), 1);
    std::fs::write(folder.path().join("index.html"), page).unwrap();
    let shots = std::env::var_os("MARGAY_SCREENSHOTS").map_or_else(|| folder.path().to_owned(), PathBuf::from);
    for (name, width, height) in [("phone", 390, 844), ("desk", 1280, 900)] {
        let probe = format!(
            "<body><iframe id=page src=index.html width={width} height={height} style='border:0'></iframe><script>\
             const frame = document.getElementById('page');\
             frame.onload = () => setTimeout(() => {{ const page = frame.contentDocument;\
             document.body.append(`fits=${{page.documentElement.scrollWidth <= page.documentElement.clientWidth}} \
             bars=${{page.querySelectorAll('rect').length}} rate=${{page.getElementById('rate').textContent}}`); }}, 100);\
             </script>"
        );
        std::fs::write(folder.path().join("probe.html"), probe).unwrap();
        let at = |file: &str| format!("file://{}", folder.path().join(file).display());
        let dom = browse(&["--dump-dom", &at("probe.html")]);
        let said = &dom[dom.len().saturating_sub(120)..];
        assert!(dom.contains("fits=true bars=4 rate=11.4 %"), "{name}: {said}");
        for (theme, flag) in
            [("light", "--blink-settings=preferredColorScheme=1"), ("dark", "--blink-settings=preferredColorScheme=0")]
        {
            let shot = shots.join(format!("status-{name}-{theme}.png"));
            let (shot_flag, size) =
                (format!("--screenshot={}", shot.display()), format!("--window-size={width},{height}"));
            browse(&[&shot_flag, &size, flag, &at("index.html")]);
            assert!(std::fs::metadata(shot).unwrap().len() > 5_000);
        }
    }
}
