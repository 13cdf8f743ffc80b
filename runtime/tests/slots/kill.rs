//! A process that updates and rolls back without end, killed at random points: the next start has a working bundle, the one
//! that was last swapped in or the one that was just about to be.
//!
//! `MARGAY_KILLS=200 cargo test -p margay --test slots kill` kills it so many times; 8 unless said.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::{answers, name, named, open};

/// Where the child finds the slots, and where the bundles to update to.
const FOLDER: &str = "MARGAY_KILL_FOLDER";

/// About as long as the child does one thing, in microseconds.
const LONGEST_STEP_US: u64 = 30_000;

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n@{line}").unwrap();
    out.flush().unwrap();
}

#[test]
#[ignore = "the process that is killed; started by the test below"]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let folder = Path::new(&folder);
    let slots = open(&folder.join("slots"));
    say(&format!("serves {}", name(slots.serving()).unwrap()));
    for step in 0.. {
        let before = name(slots.serving()).unwrap();
        let next = if before == "one" { "two" } else { "one" };
        if step % 3 == 2 && slots.can_roll_back() {
            say(&format!("wants {next}"));
            slots.roll_back().unwrap();
        } else {
            say("stages");
            slots.stage(folder.join(next)).unwrap();
            say(&format!("wants {next}"));
            slots.swap().unwrap();
        }
        say(&format!("serves {next}"));
    }
}

/// Runs the child until it has said `lines` lines and `after` has passed, and kills it. Returns all that it said.
fn run(folder: &Path, lines: usize, after: Duration) -> Vec<String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["kill::child", "--exact", "--ignored", "--nocapture"])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut said = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).split(b'\n') {
        let line = String::from_utf8(line.unwrap()).unwrap();
        let Some(line) = line.strip_prefix('@') else { continue };
        said.push(line.to_owned());
        if said.len() == lines {
            // Not to wait for anything: to strike between two lines too, wherever the child is then.
            std::thread::sleep(after);
            child.kill().unwrap();
        }
    }
    assert!(!child.wait().unwrap().success());
    assert!(said.len() >= lines, "the child ended by itself after {said:?}");
    said
}

#[test]
fn killed_at_any_point_the_next_start_has_a_working_bundle() {
    let kills: u64 = std::env::var("MARGAY_KILLS").map_or(8, |kills| kills.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    for name in ["one", "two"] {
        fs::rename(named(name).keep(), folder.path().join(name)).unwrap();
    }
    let root = folder.path().join("slots");
    open(&root).update(folder.path().join("one")).unwrap();
    let mut random: u64 = 1;
    for _ in 0..kills {
        // Knuth's MMIX generator.
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let lines = 1 + (random >> 33) as usize % 8;
        let said = run(folder.path(), lines, Duration::from_micros((random >> 20) % LONGEST_STEP_US));
        let slots = open(&root);
        assert!(slots.recovered().is_none(), "{said:?}: {:?}", slots.recovered());
        let serving = slots.serving().unwrap();
        answers(&serving);
        let found = serving.bundle.manifest().name.clone();
        // What it served last, or what it was about to.
        let last = said.iter().rposition(|line| line.starts_with("serves ")).unwrap();
        let possible: Vec<&str> =
            said[last..].iter().filter_map(|line| line.split_once(' ')).map(|(_, name)| name).collect();
        assert!(possible.contains(&found.as_str()), "{found} after {said:?}");
        let left: Vec<_> = fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(!left.iter().any(|name| name.to_string_lossy().starts_with('.')), "{left:?}");
    }
}
