//! The examples below every `--help` and in every man page: one table, which tests hold to be complete and to parse.

use clap::Command;

/// Commands, by their path of names, and what one may type.
const EXAMPLES: &[(&str, &[&str])] = &[
    ("bench", &["margay bench --bundle smollm2.bundle --threads 2", "margay bench --bundle smollm2.bundle --json"]),
    ("demo", &["margay demo --quick", "margay demo --out target/demo --objectives xent,cat-xent --seed 7"]),
    (
        "evaluate",
        &[
            "margay evaluate --outcomes outcomes.csv --chain small,large --split test --calibration calibration --goal 'risk<=0.1@0.95'",
        ],
    ),
    (
        "calibrate",
        &[
            "margay calibrate --outcomes outcomes.csv --chain small,large --calibration calibration --target 'overall-risk<=0.05@0.95' --bundle small.bundle",
        ],
    ),
    (
        "annotate",
        &[
            "margay annotate --data rows.jsonl --small SmolLM2-135M-Instruct --checkpoint large --out rows.annotations",
            "margay annotate --data rows.jsonl --small SmolLM2-135M-Instruct --endpoint http://127.0.0.1:8080/v1 --model large --out rows.annotations --estimate",
        ],
    ),
    (
        "train",
        &[
            "margay train trainer/recipes/demo.toml",
            "margay train trainer/recipes/demo.toml --resume",
            "margay train trainer/recipes/demo.toml --compare xent,cat-xent --seeds 3",
            "margay train firmware-examples/voice-intents/intents.toml",
        ],
    ),
    (
        "export",
        &[
            "margay export --checkpoint SmolLM2-135M-Instruct --out smollm2.bundle --weights int8 --licence Apache-2.0",
            "margay export --target firmware --checkpoint target/voice-intents --out src/model --calibration-data validation.jsonl",
        ],
    ),
    ("verify", &["margay verify smollm2.bundle --checkpoint SmolLM2-135M-Instruct"]),
    (
        "compare",
        &[
            "margay compare before.bundle after.bundle --data test.jsonl",
            "margay compare before.csv after.csv --small small --large large --report comparison",
        ],
    ),
    (
        "generate",
        &[
            "margay generate --bundle smollm2.bundle --prompt 'Name a wild cat.' --max-tokens 32",
            "margay generate --bundle smollm2.bundle --prompt 'Is a margay a cat?' --options Yes,No --json",
        ],
    ),
    ("chat", &["margay chat --bundle smollm2.bundle --system 'Be brief.'"]),
    ("score", &["margay score --bundle small.bundle --data test.jsonl --out outcomes.csv"]),
    ("devices", &["margay devices", "margay devices --bundle smollm2.bundle --json"]),
    ("bundle inspect", &["margay bundle inspect smollm2.bundle"]),
    ("bundle verify", &["margay bundle verify smollm2.margay --run"]),
    (
        "bundle sign",
        &["margay bundle sign smollm2.bundle --key publisher.key", "margay bundle sign smollm2.bundle --remove"],
    ),
    ("bundle keygen", &["margay bundle keygen --out publisher"]),
    ("bundle pack", &["margay bundle pack smollm2.bundle --out smollm2.margay"]),
    ("bundle unpack", &["margay bundle unpack smollm2.margay --out smollm2.bundle"]),
    ("bundle diff", &["margay bundle diff old.bundle new.bundle --exit-code"]),
    (
        "serve",
        &[
            "margay serve --bundle smollm2.bundle",
            "margay serve --bundle smollm2.bundle --batch 4",
            "margay serve --config margay.toml --listen 127.0.0.1:8484",
            "margay serve --config margay.toml --listen 0.0.0.0:8484 --token-file token --tls-cert server.pem --tls-key server.key",
        ],
    ),
    (
        "gateway",
        &["margay gateway --serial /dev/ttyUSB0 --config margay.toml", "margay gateway --serial tcp:127.0.0.1:5555"],
    ),
    ("config check", &["margay config check margay.toml"]),
    ("config example", &["margay config example"]),
    ("audit", &["margay audit audit.jsonl --summary"]),
    ("doctor", &["margay doctor", "margay doctor --bundle smollm2.bundle --config margay.toml --json"]),
    ("completions", &["margay completions bash", "margay completions zsh"]),
    ("man", &["margay man --out /usr/local/share/man/man1"]),
];

/// The same command line with its examples, and the exit codes at the top.
#[must_use]
pub(crate) fn with(command: Command) -> Command {
    let command = command.after_help(crate::exit::HELP);
    EXAMPLES.iter().fold(command, |command, (path, lines)| {
        let path: Vec<&str> = path.split(' ').collect();
        below(command, &path, lines)
    })
}

fn below(command: Command, path: &[&str], lines: &[&str]) -> Command {
    let Some((first, rest)) = path.split_first() else {
        let shown: String = lines.iter().map(|line| format!("\n  {line}")).collect();
        return command.after_help(format!("Examples:{shown}"));
    };
    // A name that is not there would be added: the tests see to it that none is.
    command.mut_subcommand(first, |command| below(command, rest, lines))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(command: &Command, path: &str, found: &mut Vec<String>) {
        for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
            let path = format!("{path} {}", inner.get_name()).trim().to_owned();
            if inner.has_subcommands() { leaves(inner, &path, found) } else { found.push(path) }
        }
    }

    #[test]
    fn every_command_has_examples_that_parse() {
        let mut commands = Vec::new();
        leaves(&crate::command(), "", &mut commands);
        for command in &commands {
            let examples = EXAMPLES.iter().find(|(path, _)| path == command);
            assert!(examples.is_some_and(|(_, lines)| !lines.is_empty()), "`margay {command}` has no example");
        }
        assert_eq!(commands.len(), EXAMPLES.len(), "there are examples for a command that is not there");
        for (path, lines) in EXAMPLES {
            for line in *lines {
                assert!(line.starts_with(&format!("margay {path}")), "{line}");
                let words: Vec<String> = words(line);
                let parsed = crate::command().try_get_matches_from(words);
                assert!(parsed.is_ok(), "{line}\n{}", parsed.unwrap_err());
            }
        }
    }

    /// What a shell makes of a line: blanks part words, single quotes hold them together.
    fn words(line: &str) -> Vec<String> {
        let parts = line.split('\'').enumerate();
        parts
            .flat_map(|(place, part)| match place % 2 {
                0 => part.split_whitespace().map(str::to_owned).collect(),
                _ => vec![part.to_owned()],
            })
            .collect()
    }
}
