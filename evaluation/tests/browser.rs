//! The report in headless Chromium: it renders without a word on the console, and fits a phone and a desk.
#![expect(clippy::unwrap_used, reason = "a failed preparation fails the test")]

mod chromium;

use std::path::{Path, PathBuf};

use margay_evaluation::bootstrap::Bootstrap;
use margay_evaluation::contrast::{self, Contrast, Side};
use margay_evaluation::evaluation::{Evaluation, Options};
use margay_evaluation::fit::Prompts;
use margay_evaluation::outcome::{Outcome, Table};
use margay_evaluation::report::{ChainReport, ContrastReport, Details};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use chromium::browse;

/// Queries have a difficulty; the harder, the less often each model is right, and the less sure it is. Every third is for
/// calibration.
fn table(queries: usize, tasks: usize, seed: u64) -> Table {
    let names = ["lights", "timers and alarms", "music", "out of scope", "banking: transfers and standing orders"];
    let mut random = StdRng::seed_from_u64(seed);
    let mut table = Table::default();
    for query in 0..queries {
        let hard: f64 = random.random();
        let split = if query % 3 == 0 { "calibration" } else { "test" };
        for (model, chance, noise, flops) in
            [("small", 1.0 - 0.7 * hard, 0.5, 2e8), ("large", 0.97 - 0.1 * hard, 0.2, 2e9)]
        {
            let quality = f64::from(u8::from(random.random::<f64>() < chance));
            let doubt = hard * (1.0 - noise) + noise * random.random::<f64>() + 0.2 * (1.0 - quality);
            let mut row = Outcome::new(format!("turn the {query}. light off, \"please\" & <now>"), model, quality);
            row.split = Some(split.into());
            let task = query / 3 % tasks;
            row.task = Some(format!("{}{}", names[task % names.len()], " again".repeat(task / names.len())));
            row.flops = Some(flops * (0.8 + 0.4 * random.random::<f64>()));
            row.score = Some(-doubt);
            row.signals.insert("quantile-10".into(), -doubt - random.random::<f64>());
            row.signals.insert("mean-entropy".into(), -random.random::<f64>());
            table.push(row).unwrap();
        }
    }
    table
}

fn report(folder: &Path, tasks: usize) {
    let table = table(1500, tasks, 1);
    let goals = ["risk<=0.1@0.95", "deferral<=0.3", "overall-risk<=0.0001@0.99"].map(|goal| goal.parse().unwrap());
    let prompts = Prompts::default();
    let options = Options {
        bootstrap: Bootstrap { resamples: 200, ..Bootstrap::default() },
        calibration: Some("calibration"),
        goals: &goals,
        prompts: Some(&prompts),
        ..Options::default()
    };
    let models = ["small", "large"];
    let evaluation = Evaluation::from_table(&table, &models, &options).unwrap();
    let details = Details::of(&table, &models, &options, &evaluation).unwrap();
    ChainReport { title: "Cascade of small and large", evaluation: &evaluation, details: &details }
        .write(folder)
        .unwrap();
}

/// Another draw of the same models against the first.
fn contrast(folder: &Path, large: Option<&str>) {
    let tables = [table(1500, 3, 1), table(1500, 3, 2)];
    let side = |name, table| Side { name, table, small: "small", threshold: None, kept: None };
    let options = contrast::Options {
        bootstrap: Bootstrap { resamples: 200, ..Bootstrap::default() },
        large,
        ..contrast::Options::default()
    };
    let contrast = Contrast::of(&side("old.bundle", &tables[0]), &side("new.bundle", &tables[1]), &options).unwrap();
    ContrastReport { title: "new.bundle against old.bundle", contrast: &contrast }.write(folder).unwrap();
}

#[test]
#[ignore = "needs Chromium: `apt-get install chromium`, then `cargo test -p margay-evaluation --test browser -- --ignored`"]
fn the_reports_render_on_a_phone_and_on_a_desk() {
    let page = |write: &dyn Fn(&Path), page: &str, figures: usize| {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path());
        renders(folder.path(), page, figures);
    };
    page(&|folder| report(folder, 40), "report", 11);
    page(&|folder| report(folder, 1), "one-task", 11);
    page(&|folder| contrast(folder, Some("large")), "contrast", 5);
    page(&|folder| contrast(folder, None), "contrast-alone", 3);
}

/// Three figures are tables, more are drawings too.
fn renders(folder: &Path, page: &str, figures: usize) {
    // For a person to look at, beside what is asserted.
    let shots = std::env::var_os("MARGAY_SCREENSHOTS").map_or_else(|| folder.to_owned(), PathBuf::from);
    for (name, width, height) in [("phone", 390, 844), ("desk", 1280, 900)] {
        // The page runs no script, so another page measures it.
        let probe = format!(
            "<body><iframe id=page src=index.html width={width} height={height} style='border:0'></iframe><script>\
             const frame = document.getElementById('page'); frame.onload = () => {{ const page = frame.contentDocument;\
             document.body.append(`fits=${{page.documentElement.scrollWidth <= page.documentElement.clientWidth}} figures=${{page.querySelectorAll('figure').length}} \
             drawings=${{page.querySelectorAll('svg text').length > 10}}`); }};</script>"
        );
        std::fs::write(folder.join("probe.html"), probe).unwrap();
        let url = |file: &str| format!("file://{}", folder.join(file).display());
        let dom = browse(&["--dump-dom", &url("probe.html")]);
        let said = &dom[dom.len().saturating_sub(200)..];
        assert!(dom.contains("fits=true "), "{name} scrolls sideways: {said}");
        assert!(dom.contains(&format!("figures={figures} drawings={}", figures > 3)), "{said}");

        for (theme, flag) in
            [("light", "--blink-settings=preferredColorScheme=1"), ("dark", "--blink-settings=preferredColorScheme=0")]
        {
            let shot = shots.join(format!("{page}-{name}-{theme}.png"));
            let tall = if name == "phone" { 9000 } else { 5200 };
            let arguments = [
                format!("--screenshot={}", shot.display()),
                format!("--window-size={width},{tall}"),
                flag.to_owned(),
                url("index.html"),
            ];
            browse(&arguments);
            let image = std::fs::read(&shot).unwrap();
            assert!(image.starts_with(b"\x89PNG") && image.len() > 30_000, "{name}, {theme}: {} bytes", image.len());
        }
    }
}

#[test]
fn every_figure_has_its_numbers_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    report(folder.path(), 3);
    let page = std::fs::read_to_string(folder.path().join("index.html")).unwrap();
    assert!(!page.contains("<script") && !page.contains("src=") && !page.contains("url("), "it loads nothing");
    assert!(!page.contains("<now>"), "text from outside stays text");
    assert!(
        page.contains("cannot be promised") && page.contains("With probability 0.95"),
        "what can be promised, or not"
    );
    for name in [
        "deferral-curve",
        "cost-quality",
        "tuning",
        "scores",
        "reliability",
        "risk-coverage",
        "confidence",
        "measures",
        "rules",
        "tasks",
        "changed-hands",
    ] {
        assert!(page.contains(&format!("id=\"{name}\"")), "{name}");
        let csv = std::fs::read_to_string(folder.path().join(format!("{name}.csv"))).unwrap();
        let json = std::fs::read(folder.path().join(format!("{name}.json"))).unwrap();
        let rows: Vec<serde_json::Value> = serde_json::from_slice(&json).unwrap();
        assert!(
            !rows.is_empty() && csv::Reader::from_reader(csv.as_bytes()).records().all(|row| row.is_ok()),
            "{name}"
        );
        assert_eq!(csv::Reader::from_reader(csv.as_bytes()).records().count(), rows.len(), "{name}");
    }
    assert!(Evaluation::read(&folder.path().join("evaluation.json")).is_ok());
}
