//! `margay train` as a process: killed and gone on with, interrupted, refused.
#![expect(clippy::unwrap_used, reason = "a failed preparation fails the test")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use serde_json::Value;

/// A folder with data and a recipe of 18 steps.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let words = ["balance", "weather", "alarm", "music", "translate", "timer"];
        let row = |n: usize| {
            let word = words[n % words.len()];
            let ask = ["show", "tell me the", "start"][n % 3];
            format!("{{\"input\": \"please {ask} {word} {n}\", \"target\": \"{word}\"}}\n")
        };
        fs::write(folder.path().join("a.jsonl"), (0..30).map(row).collect::<String>()).unwrap();
        fs::write(folder.path().join("b.jsonl"), (30..50).map(row).collect::<String>()).unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Everything that keeps state between steps is on: dropout, moments, averages, a mixture, packing, accumulation.
    fn recipe(&self, name: &str, more: &str) -> PathBuf {
        let (out, a, b) = (self.path(name), self.path("a.jsonl"), self.path("b.jsonl"));
        let text = format!(
            "out = {out:?}\nseed = 5\n[model]\nscratch = {{ vocabulary = 300, hidden = 16, intermediate = 32, layers = 1, \
             heads = 1, key_value_heads = 1 }}\n{more}\n[data]\ncontext = 48\npacking = true\n\
             [[data.train]]\npath = {a:?}\nweight = 1.0\n[[data.train]]\npath = {b:?}\nweight = 2.0\n\
             [[data.evaluation]]\npath = {b:?}\ncap = 6\n\
             [training]\nsteps = 18\nbatch_size = 4\naccumulate = 2\nlearning_rate = 1e-2\ndropout = 0.1\nema = 0.9\n\
             [evaluation]\nevery = 1\n[checkpoints]\nevery = 2\n"
        );
        let path = self.path(&format!("{name}.toml"));
        fs::write(&path, text).unwrap();
        path
    }
}

fn margay(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_margay"));
    command.arg("train").args(arguments);
    command
}

fn train(recipe: &Path, more: &[&str]) -> Output {
    margay(&[recipe.to_str().unwrap()]).args(more).output().unwrap()
}

/// Starts a training and waits until it has said that so many steps were measured. Whoever drops the reader ends it.
fn until_step(recipe: &Path, step: usize) -> (Child, BufReader<ChildStdout>) {
    let mut child = margay(&[recipe.to_str().unwrap()]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap());
    let lines = said.by_ref().lines().map_while(Result::ok);
    assert!(lines.filter(|line| line.starts_with("step ")).nth(step - 1).is_some(), "it ended before step {step}");
    (child, said)
}

/// The lines of `metrics.jsonl` without what depends on the machine.
fn metrics(out: &Path) -> Vec<Value> {
    let text = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let line = |line: &str| {
        let mut value: Value = serde_json::from_str(line).unwrap();
        value.as_object_mut().unwrap().remove("tokens_per_second");
        value
    };
    text.lines().map(line).collect()
}

/// Every tensor's bytes; the file's header is in no particular order.
fn tensors(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let bytes = fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    file.tensors().into_iter().map(|(name, view)| (name, view.data().to_vec())).collect()
}

fn assert_succeeded(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A number that differs from run to run of the tests.
fn random(most: usize) -> usize {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0) as usize % most
}

fn killed_and_resumed_is_as_if_nothing_had_been(more: &str) {
    let place = Place::new();
    let whole = place.recipe("whole", more);
    assert_succeeded(&train(&whole, &[]));
    let weights = |name: &str, kind: &str| tensors(&place.path(name).join(kind).join("model.safetensors"));
    let kills = std::env::var("MARGAY_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(3);
    for kill in 0..kills {
        let name = format!("killed-{kill}");
        let recipe = place.recipe(&name, more);
        let step = 1 + random(17);
        let (mut child, _said) = until_step(&recipe, step);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_succeeded(&train(&recipe, &["--resume"]));
        for kind in ["model", "best"] {
            assert!(weights(&name, kind) == weights("whole", kind), "{kind} differs after a kill in step {step}");
        }
        assert_eq!(metrics(&place.path(&name)), metrics(&place.path("whole")), "after a kill in step {step}");
    }
}

#[test]
fn a_run_killed_at_a_random_step_and_resumed_ends_with_the_same_bits() {
    killed_and_resumed_is_as_if_nothing_had_been("");
}

#[test]
fn so_does_one_that_trains_adapters() {
    killed_and_resumed_is_as_if_nothing_had_been("lora = { rank = 2, targets = [\"q_proj\", \"down_proj\"] }");
}

#[cfg(unix)]
#[test]
fn an_interrupt_saves_and_stops() {
    let place = Place::new();
    let recipe = place.recipe("stopped", "");
    let (mut child, mut said) = until_step(&recipe, 3);
    let interrupted = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    assert!(interrupted.success() && child.wait().unwrap().success(), "{rest}");
    assert!(rest.contains("stopped after step") && rest.contains("--resume"), "{rest}");
    let states = fs::read_dir(place.path("stopped/states")).unwrap().count();
    assert!(states > 0 && !place.path("stopped/model").exists());
    let again = train(&recipe, &[]);
    let message = String::from_utf8_lossy(&again.stderr);
    assert!(!again.status.success() && message.contains("there is a run already"), "{message}");
    assert_succeeded(&train(&recipe, &["--resume"]));
    assert!(place.path("stopped/model/model.safetensors").exists());
}

#[test]
fn a_run_is_not_gone_on_with_under_another_recipe() {
    let place = Place::new();
    let recipe = place.recipe("run", "");
    assert_succeeded(&train(&recipe, &["--set", "training.steps=2"]));
    let other = train(&recipe, &["--resume"]);
    let message = String::from_utf8_lossy(&other.stderr);
    assert!(!other.status.success() && message.contains("begun with another recipe"), "{message}");
}

#[test]
fn a_diverging_run_names_its_rows_and_keeps_the_last_good_state() {
    let place = Place::new();
    let recipe = place.recipe("wild", "");
    let wild = ["--set", "training.learning_rate=1e38", "--set", "training.clip=1e38", "--set", "training.warm_up=0.5"];
    let output = train(&recipe, &wild);
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("training diverged at step") && message.contains(".jsonl:"), "{message}");
}

#[test]
fn a_misspelt_key_is_named_with_its_line_and_what_was_meant() {
    let place = Place::new();
    let recipe = place.recipe("run", "");
    let text = fs::read_to_string(&recipe).unwrap().replace("learning_rate", "lerning_rate");
    fs::write(&recipe, text).unwrap();
    let message = String::from_utf8_lossy(&train(&recipe, &[]).stderr).into_owned();
    assert!(message.contains("run.toml:22: [training]"), "{message}");
    assert!(message.contains("did you mean `learning_rate`?"), "{message}");
}
