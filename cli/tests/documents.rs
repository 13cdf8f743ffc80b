//! What README and docs tell people to type: every command parses, every link leads somewhere, every `margay.toml` is one.
#![expect(clippy::unwrap_used, reason = "a failed preparation fails the test")]

use std::path::{Path, PathBuf};

use margay::configuration::Configuration;

/// README's length is part of what it promises.
const README_LINES: usize = 200;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// README, the pages of `docs` and the folders' own Markdown files.
fn documents() -> Vec<PathBuf> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                walk(&path, found);
            } else if name.ends_with(".md") {
                found.push(path);
            }
        }
    }
    let mut found = vec![];
    walk(&root(), &mut found);
    found.sort();
    found
}

/// The fenced blocks of a language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let mut found = vec![];
    let mut open: Option<(bool, String)> = None;
    for line in text.lines() {
        let trimmed = line.trim_start();
        match (&mut open, trimmed.strip_prefix("```")) {
            (None, Some(info)) => open = Some((info.trim() == language, String::new())),
            (Some((wanted, block)), Some(_)) => {
                if *wanted {
                    found.push(std::mem::take(block));
                }
                open = None;
            }
            (Some((_, block)), None) => {
                block.push_str(trimmed);
                block.push('\n');
            }
            (None, None) => {}
        }
    }
    found
}

/// Words of a shell line: quotes are honoured, a comment ends it.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (vec![], None::<String>, None);
    for character in line.chars() {
        match (quote, character) {
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[test]
fn every_command_that_is_shown_parses() {
    let mut seen = 0;
    for document in documents() {
        let text = std::fs::read_to_string(&document).unwrap();
        for block in blocks(&text, "sh") {
            for line in block.replace("\\\n", " ").lines() {
                let words = words(line);
                let Some(at) = words.iter().position(|word| word == "margay" || word == "$margay") else { continue };
                let end = words[at..].iter().position(|word| matches!(word.as_str(), "|" | "&&" | "&" | ">" | ";"));
                let command = &words[at..end.map_or(words.len(), |end| at + end)];
                // `cargo build -p margay` is not ours to parse.
                if words[..at].iter().any(|word| word == "cargo" || word == "pip") || command.len() < 2 {
                    continue;
                }
                if let Err(error) = margay_cli::command().try_get_matches_from(command) {
                    use clap::error::ErrorKind::{DisplayHelp, DisplayVersion, ValueValidation};
                    // A file that the reader has and this test has not.
                    let absent = error.kind() == ValueValidation && error.to_string().contains("cannot read");
                    let fine = absent || matches!(error.kind(), DisplayHelp | DisplayVersion);
                    assert!(fine, "{}: `{line}`\n{error}", document.display());
                }
                seen += 1;
            }
        }
    }
    assert!(seen > 10, "only {seen} commands were found: are blocks still marked `sh`?");
}

#[test]
fn every_link_within_the_repository_leads_somewhere() {
    let link = regex::Regex::new(r"\]\(([^)\s]+)\)").unwrap();
    for document in documents() {
        let text = std::fs::read_to_string(&document).unwrap();
        for target in link.captures_iter(&text).map(|found| found[1].to_owned()) {
            if target.contains("://") || target.starts_with('#') || target.starts_with("mailto:") {
                continue;
            }
            let path = document.parent().unwrap().join(target.split('#').next().unwrap());
            assert!(path.exists(), "{}: {target} leads nowhere", document.display());
        }
    }
}

#[test]
fn every_page_of_the_book_is_in_its_summary() {
    let docs = root().join("docs");
    let summary = std::fs::read_to_string(docs.join("SUMMARY.md")).unwrap();
    for page in documents().iter().filter(|page| page.starts_with(&docs) && !page.ends_with("SUMMARY.md")) {
        let name = page.strip_prefix(&docs).unwrap().to_str().unwrap();
        assert!(summary.contains(&format!("({name})")), "{name} is not in docs/SUMMARY.md");
    }
}

#[test]
fn every_margay_toml_that_is_shown_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut seen = 0;
    for document in documents() {
        let text = std::fs::read_to_string(&document).unwrap();
        for block in blocks(&text, "toml").iter().filter(|block| block.contains("[cloud.server]")) {
            let file = folder.path().join("margay.toml");
            std::fs::write(&file, block).unwrap();
            Configuration::read(&file).unwrap_or_else(|error| panic!("{}: {error}", document.display()));
            seen += 1;
        }
    }
    assert!(seen > 0);
}

#[test]
fn the_readme_is_short_enough_to_be_read() {
    let lines = std::fs::read_to_string(root().join("README.md")).unwrap().lines().count();
    assert!(lines <= README_LINES, "{lines} lines");
}
