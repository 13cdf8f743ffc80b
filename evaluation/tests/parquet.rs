//! Outcome tables as pyarrow writes and reads them; `fixtures/parquet.py` made the files in `fixtures/parquet`.
#![expect(clippy::unwrap_used, reason = "a failed preparation fails the test")]

mod python;

use std::path::PathBuf;

use margay_evaluation::ErrorKind;
use margay_evaluation::outcome::{Outcome, Table};

fn fixture(name: &str) -> PathBuf {
    python::fixtures().join("parquet").join(format!("{name}.parquet"))
}

/// What the script says in its first lines.
fn expected() -> Table {
    let mut table = Table::default();
    for at in 0..80_u32 {
        let model = if at % 2 == 0 { "small" } else { "large" };
        let mut row = Outcome::new(format!("q{}", at / 2), model, f64::from(u8::from(at % 3 > 0)));
        row.task = Some("lights, please".into());
        row.score = (at % 2 == 0).then(|| -f64::from(at) / 8.0);
        row.tokens_in = (at % 5 != 0).then(|| u64::from(at) * 3);
        row.tokens_out = row.tokens_in;
        row.signals.extend((at % 7 != 0).then(|| ("a.b".to_owned(), f64::from(at) / 4.0)));
        row.flops = Some(1e9);
        table.push(row).unwrap();
    }
    table
}

#[test]
fn what_pyarrow_writes_is_read() {
    for name in ["snappy", "zstd", "plain", "truths"] {
        assert_eq!(Table::read(&fixture(name)).unwrap(), expected(), "{name}");
    }
}

#[test]
fn an_error_names_the_row_and_the_column() {
    for (name, kind, row, column, words) in [
        ("nan", ErrorKind::Value, Some(52), Some("quality"), "NaN is not"),
        ("null", ErrorKind::Value, Some(34), Some("quality"), "is empty"),
        ("twice", ErrorKind::Duplicate, Some(3), None, "a second row for query `q0` and model `small`"),
        ("word", ErrorKind::Value, Some(1), Some("score"), "text is not a number"),
        ("negative", ErrorKind::Value, Some(1), Some("tokens_in"), "`-1` is not a whole number"),
        ("misspelt", ErrorKind::Columns, None, Some("qualty"), "is not one of"),
        ("list", ErrorKind::Columns, None, Some("task/list/element"), "is not one of"),
        ("date", ErrorKind::Value, None, Some("score"), "Timestamp"),
    ] {
        let error = Table::read(&fixture(name)).unwrap_err();
        assert_eq!((error.kind(), error.row(), error.column()), (kind, row, column), "{name}: {error}");
        assert!(error.to_string().contains(words), "{name}: {error}");
        assert_eq!(error.path(), Some(fixture(name).as_path()));
    }
    assert_eq!(Table::from_parquet(b"query,model,quality".to_vec()).unwrap_err().kind(), ErrorKind::Value);
}

#[test]
fn shards_of_any_format_are_one_table() {
    let folder = tempfile::tempdir().unwrap();
    let (mut first, mut second, mut third) = (Table::default(), Table::default(), Table::default());
    for (at, row) in expected().rows().enumerate() {
        [&mut first, &mut second, &mut third][at / 30].push(row.to_outcome()).unwrap();
    }
    let paths = ["a.parquet", "b.jsonl", "c.csv"].map(|name| folder.path().join(name));
    for (table, path) in [first, second, third].iter().zip(&paths) {
        table.write(path).unwrap();
    }
    assert_eq!(Table::read_all(&paths).unwrap(), expected());
    let error = Table::read_all([&paths[1], &paths[0], &paths[1]]).unwrap_err();
    assert_eq!((error.kind(), error.path(), error.row()), (ErrorKind::Duplicate, Some(paths[1].as_path()), Some(1)));
}

#[test]
fn many_row_groups_are_read_as_one() {
    let mut table = Table::default();
    for at in 0..300_000_u32 {
        let mut row = Outcome::new(format!("q{at}"), "m", f64::from(at % 5) / 4.0);
        row.score = (at % 1000 != 0).then(|| f64::from(at));
        table.push(row).unwrap();
    }
    let mut parquet = Vec::new();
    table.to_parquet(&mut parquet).unwrap();
    assert_eq!(Table::from_parquet(parquet).unwrap(), table);
}

#[test]
#[ignore = "installs pyarrow (50 MB): `cargo test -p margay-evaluation --features parquet --test parquet -- --ignored`"]
fn pyarrow_reads_what_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ours.parquet");
    let mut table = expected();
    let mut odd = Outcome::new("\u{fc}, \"quoted\"\n", "small", 1.0 / 3.0);
    (odd.split, odd.answer_digest) = (Some("test".into()), Some("sha256:00".into()));
    (odd.cost, odd.latency_ms, odd.tokens_in) = (Some(0.1 + 0.2), Some(5e-324), Some(i64::MAX as u64));
    table.push(odd).unwrap();
    table.write(&path).unwrap();
    let lines = python::run("parquet.py", &[folder.path().to_str().unwrap(), path.to_str().unwrap()]);
    assert_eq!(Table::from_json_lines(lines.as_bytes()).unwrap(), table);
}
