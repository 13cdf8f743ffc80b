use std::time::Duration;

use super::*;
use crate::Money;
use crate::cascade::OnCloudFailure;
use crate::stores::Period;

const LEAST: &str = "version = 1\n[cloud.server]\nendpoint = \"https://example.com/v1\"\nmodel = \"large\"\n";

fn parse(text: &str) -> Result<Configuration> {
    Configuration::parse(text, "margay.toml", "", &[])
}

fn complaint(text: &str) -> String {
    let error = parse(text).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    error.to_string()
}

#[test]
fn the_example_is_read_and_says_what_holds_unless_said() {
    let example = parse(EXAMPLE).unwrap();
    let least = parse(LEAST).unwrap();
    assert_eq!(example.cloud.fallback.len(), 1);
    assert_eq!(example.cascade.breaker, least.cascade.breaker);
    assert_eq!(example.cascade.on_cloud_failure, OnCloudFailure::FallBackToLocal);
    assert_eq!(
        (example.cascade.deadline, least.cascade.deadline),
        (Some(Duration::from_secs(60)), Some(Duration::from_secs(60)))
    );
    let (said, unsaid) = (&example.cloud.server, &least.cloud.server);
    assert_eq!(
        (said.api, &said.retry, &said.roots, &said.pins),
        (unsaid.api, &unsaid.retry, &unsaid.roots, &unsaid.pins)
    );
    assert_eq!((said.connect_timeout, said.attempt_timeout), (unsaid.connect_timeout, unsaid.attempt_timeout));
    assert_eq!(said.allow_static_key, unsaid.allow_static_key);
    assert_eq!(example.privacy.redact, least.privacy.redact);
    let budget = example.budget.unwrap();
    assert_eq!(
        (budget.input_price, budget.output_price),
        (Money::from_micros(2_500_000), Money::from_micros(10_000_000))
    );
    assert_eq!((budget.limit[0].per, budget.limit[0].money), (Period::Month, Some(Money::from_micros(5_000_000))));
    let outbox = parse(&format!("{LEAST}[outbox]\nfile = \"outbox.redb\"\n")).unwrap().outbox;
    assert_eq!(example.outbox, outbox);
}

/// Every key that the reader knows is in the example: serde names them all in its complaint about one that it does not.
#[test]
fn the_example_has_every_key() {
    for table in [
        "",
        "[device]",
        "[cascade]",
        "[cascade.breaker]",
        "[cloud]",
        "[cloud.server]",
        "[cloud.server.retry]",
        "[cloud.server.proxy]",
        "[cloud.server.identity]",
        "[cloud.hedge]",
        "[privacy]",
        "[budget]",
        "[[budget.limit]]",
        "[outbox]",
        "[cache]",
        "[connectivity]",
        "[telemetry]",
    ] {
        let said = complaint(&format!("{table}\nnonsense = 1\n"));
        let expected = said.split("expected").nth(1).unwrap_or_else(|| panic!("{table}: {said}"));
        for key in expected.split('`').skip(1).step_by(2) {
            let known = EXAMPLE.contains(&format!("{key} =")) || EXAMPLE.contains(&format!("{key}]"));
            let known = known || EXAMPLE.contains(&format!("[{key}."));
            assert!(known, "{table} {key} is not in the example");
        }
    }
}

#[test]
fn what_is_wrong_is_said_with_its_line_and_column() {
    for (text, said) in [
        ("version = 1\n[cloud.server]\nendpont = 1\n", "margay.toml:3:1: unknown field `endpont`"),
        (
            "version = 2\n[cloud.server]\nendpoint = \"https://a/v1\"\nmodel = \"m\"\n",
            "margay.toml:1:11: version 2 is not read here",
        ),
        ("version = 1\n", "margay.toml:1:1: missing field `cloud`"),
        (
            "version = 1\n[cloud.server]\nendpoint = \"http://a/v1\"\nmodel = \"m\"\n",
            "margay.toml:3:12: the endpoint does not start with https://",
        ),
        ("version = 1\nversion = 1\n", "margay.toml:2:1: duplicate key"),
        ("version = 1\n é = \"\n", "margay.toml:2:2: "),
        (&format!("{LEAST}pins = [\"sha256/short\"]\n"), "margay.toml:5:8: `sha256/short` is no pin"),
        (
            &format!("{LEAST}[telemetry]\nendpoint = \"https://me:secret@a\"\n"),
            "margay.toml:6:12: an address in a file holds no credentials",
        ),
        (
            &format!("{LEAST}[telemetry]\nendpoint = \"grpc://a\"\n"),
            "margay.toml:6:12: the address starts with neither",
        ),
        (&format!("{LEAST}connect_timeout = \"soon\"\n"), "margay.toml:5:19: `soon` is no time"),
        (
            &format!("{LEAST}token = {{ environment = \"KEY\" }}\n"),
            "margay.toml:5:9: a key in the environment never changes",
        ),
        (&format!("{LEAST}[cloud.hedge]\ninitial = \"1s\"\n"), "margay.toml:2:2: `hedge` needs a `fallback`"),
        (
            &format!("{LEAST}[privacy]\npatterns = {{ X = \"(\" }}\n"),
            "margay.toml:6:12: the redaction pattern `X` does not compile",
        ),
        (
            &format!("{LEAST}[budget]\nfile = \"b\"\ninput_price = \"2.5000001\"\n"),
            "margay.toml:7:15: `2.5000001` is no amount",
        ),
        (&format!("{LEAST}[cascade]\non_cloud_failure = \"panic\"\n"), "margay.toml:6:20: `panic` is none of"),
    ] {
        let complaint = complaint(text);
        assert!(complaint.starts_with(said), "{said}\n{complaint}");
        assert!(!complaint.contains('\n'), "{complaint}");
    }
}

#[test]
fn amounts_are_exact() {
    for (text, micros) in
        [("0", 0), ("2.5", 2_500_000), ("0.000001", 1), ("18446744073709", 18_446_744_073_709_000_000)]
    {
        let budget =
            parse(&format!("{LEAST}[budget]\nfile = \"b\"\ninput_price = \"{text}\"\n")).unwrap().budget.unwrap();
        assert_eq!(budget.input_price, Money::from_micros(micros), "{text}");
    }
    for text in ["", ".5", "5.", "-1", "+1", "1e3", "1,5", "18446744073710", "0.0000001"] {
        complaint(&format!("{LEAST}[budget]\nfile = \"b\"\ninput_price = \"{text}\"\n"));
    }
}

#[test]
fn overrides_take_the_place_of_what_the_file_says() {
    let read = |overrides: &[(&str, &str)]| {
        let overrides: Vec<_> = overrides.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Configuration::parse(LEAST, "margay.toml", "", &overrides)
    };
    let changed = read(&[
        ("cloud.server.model", "other"),
        ("cascade.deadline", "\"5s\""),
        ("cloud.server.retry.attempts", "7"),
        ("cloud.server.allow_static_key", "true"),
        ("cloud.server.token.environment", "KEY"),
    ])
    .unwrap();
    assert_eq!((changed.cloud.server.model.as_str(), changed.cloud.server.retry.attempts), ("other", 7));
    assert_eq!(changed.cascade.deadline, Some(Duration::from_secs(5)));
    for (key, value) in [("cloud.server.nonsense", "1"), ("cloud.server.endpoint", "ftp://a"), ("version.x", "1")] {
        let error = read(&[(key, value)]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.to_string().contains(key.split('.').next().unwrap()), "{error}");
    }
}

#[test]
fn what_is_described_is_opened_beside_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("margay.toml");
    let text = EXAMPLE.replace("[cloud.server]", "[cloud.server] # the first");
    std::fs::write(&path, text).unwrap();
    let configuration = Configuration::read(&path).unwrap();
    let assembly = configuration.assemble().unwrap();
    assert!(assembly.budget.is_some() && assembly.outbox.is_some() && assembly.connectivity.is_some());
    for file in ["audit.jsonl", "budget.redb", "outbox.redb"] {
        assert!(folder.path().join(file).exists(), "{file}");
    }

    let missing = Configuration::read(folder.path().join("nowhere.toml")).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::Io);
    let rootless = format!("{LEAST}roots = {{ pem = \"nowhere.pem\" }}\n");
    let rootless = Configuration::parse(&rootless, "margay.toml", folder.path(), &[]).unwrap();
    assert!(rootless.assemble().unwrap_err().to_string().contains("nowhere.pem"));
}

#[tokio::test]
async fn tokens_come_fresh_from_where_they_are_and_errors_never_hold_them() {
    use super::token::Source;
    use crate::cloud::{TokenProvider, Wanted};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let shown = async |source: &Source, wanted| {
        let token = source.token(wanted).await;
        token.map(|token| token.redact("planted-1 planted-2 current renewed")).map_err(|error| error.to_string())
    };
    let file = Source::File(path.clone());
    assert!(shown(&file, Wanted::Current).await.unwrap_err().contains("token"));
    for text in ["planted-1\n", "planted-2"] {
        std::fs::write(&path, text).unwrap();
        assert!(!shown(&file, Wanted::Current).await.unwrap().contains(text.trim()));
    }
    std::fs::write(&path, "x".repeat(20 << 10)).unwrap();
    assert!(shown(&file, Wanted::Current).await.unwrap_err().contains("over"));
    let command = |script: &str| Source::Command(["sh", "-c", script].map(str::to_owned).to_vec());
    if cfg!(unix) {
        let echo = command("echo $MARGAY_TOKEN_WANTED");
        assert_eq!(shown(&echo, Wanted::Renewed).await.unwrap(), "planted-1 planted-2 current [redacted]");
        let failed = shown(&command("echo planted-1; exit 3"), Wanted::Current).await.unwrap_err();
        assert!(failed.contains("exit status: 3") && !failed.contains("planted"), "{failed}");
    }
    let variable = Source::Environment("MARGAY_NO_SUCH_VARIABLE".into());
    assert!(shown(&variable, Wanted::Current).await.unwrap_err().contains("MARGAY_NO_SUCH_VARIABLE"));
}
