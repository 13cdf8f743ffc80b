use std::io::Read;

use super::*;
use crate::file::write_atomically;

fn error_of(csv: &str) -> Error {
    Table::from_csv(csv.as_bytes()).unwrap_err()
}

fn full() -> Outcome {
    Outcome {
        task: Some("intent".into()),
        split: Some("test".into()),
        score: Some(-0.1),
        signals: BTreeMap::from([("min".into(), -3.25), ("mean".into(), 1e-300)]),
        tokens_in: Some(12),
        tokens_out: Some(3),
        cost: Some(0.1 + 0.2),
        latency_ms: Some(17.5),
        flops: Some(2.4e9),
        answer_digest: Some("sha256:00".into()),
        ..Outcome::new("what, \"now\"?\n", "small", 1.0 / 3.0)
    }
}

#[test]
fn a_table_reads_back_as_it_was_written() {
    let mut table = Table::default();
    table.push(full()).unwrap();
    table.push(Outcome::new("bare", "small", 0.0)).unwrap();
    let mut csv = Vec::new();
    table.to_csv(&mut csv).unwrap();
    let header = csv.split(|byte| *byte == b'\n').next().unwrap();
    assert_eq!(
        String::from_utf8_lossy(header),
        "query,model,quality,task,split,score,signal.mean,signal.min,tokens_in,tokens_out,cost,latency_ms,flops,answer_digest"
    );
    assert_eq!(Table::from_csv(&csv[..]).unwrap(), table);
}

#[test]
fn columns_may_come_in_any_order_and_optional_ones_not_at_all() {
    let table = Table::from_csv(&b"model,signal.x,quality,query\nsmall,0.5,1,a\nlarge,,0,a\n"[..]).unwrap();
    assert_eq!(table.rows().next().unwrap().signal("x"), Some(0.5));
    assert_eq!(table.rows().nth(1).unwrap().to_outcome(), Outcome::new("a", "large", 0.0));
    assert_eq!(table.models(), ["large", "small"]);
}

#[test]
fn a_bad_header_names_the_column() {
    for (header, column) in [
        ("query,model", "quality"),
        ("query,quality", "model"),
        ("query,model,quality,qualty", "qualty"),
        ("query,model,quality,score,score", "score"),
        ("query,model,quality,signal.", "signal."),
        ("", "query"),
    ] {
        let error = error_of(&format!("{header}\n"));
        assert_eq!(
            (error.kind(), error.row(), error.column()),
            (ErrorKind::Columns, Some(1), Some(column)),
            "{header}"
        );
    }
}

#[test]
fn a_bad_field_names_row_and_column() {
    let header = "query,model,quality,score,tokens_in,latency_ms,signal.x";
    for (row, column) in [
        ("a,small,nan,,,,", "quality"),
        ("a,small,1.01,,,,", "quality"),
        ("a,small,-0.1,,,,", "quality"),
        ("a,small,,,,,", "quality"),
        ("a,small,good,,,,", "quality"),
        (",small,1,,,,", "query"),
        ("a,,1,,,,", "model"),
        ("a,small,1,inf,,,", "score"),
        ("a,small,1,,-1,,", "tokens_in"),
        ("a,small,1,,1.5,,", "tokens_in"),
        ("a,small,1,,,-2,", "latency_ms"),
        ("a,small,1,,,,NaN", "signal.x"),
    ] {
        let error = error_of(&format!("{header}\nfine,small,1,,,,\n{row}\n"));
        assert_eq!((error.kind(), error.row(), error.column()), (ErrorKind::Value, Some(3), Some(column)), "{row}");
    }
}

#[test]
fn a_duplicate_names_its_row_query_and_model() {
    let error = error_of("query,model,quality\na,small,1\na,large,1\na,small,0\n");
    assert_eq!((error.kind(), error.row()), (ErrorKind::Duplicate, Some(4)));
    assert_eq!(error.to_string(), "row 4: a second row for query `a` and model `small`");
}

#[test]
fn a_ragged_row_and_bytes_that_are_no_text_are_refused() {
    let error = error_of("query,model,quality\na,small\n");
    assert_eq!((error.kind(), error.row()), (ErrorKind::Value, Some(2)));
    let error = Table::from_csv(&b"query,model,quality\n\xff,small,1\n"[..]).unwrap_err();
    assert_eq!((error.kind(), error.row()), (ErrorKind::Value, Some(2)));
}

#[test]
fn what_spreadsheets_and_editors_do_to_a_file_changes_nothing() {
    let plain = Table::from_csv(&b"query,model,quality\n\"a\nb\",small,1\nc,small,0\n"[..]).unwrap();
    assert_eq!(plain.rows().next().unwrap().query(), "a\nb");
    let table = |csv: &str| Table::from_csv(csv.as_bytes()).unwrap();
    assert_eq!(table("\u{feff}query,model,quality\r\n\"a\nb\",small,1\r\nc,small,0"), plain);
    assert_eq!(table("query,model,quality\n\n\"a\nb\",small,1\n\n\nc,small,0\n\n"), plain, "blank lines");
    let lines = "\u{feff}{\"query\":\"a\\nb\",\"model\":\"small\",\"quality\":1}\r\n\r\n{\"query\":\"c\",\"model\":\"small\",\"quality\":0}";
    assert_eq!(Table::from_json_lines(lines.as_bytes()).unwrap(), plain);
    // A field of two lines is in one row, as a spreadsheet counts.
    let error = error_of("query,model,quality\r\n\"a\r\nb\",small,1\r\nc,small,2\r\n");
    assert_eq!((error.row(), error.column()), (Some(3), Some("quality")));
    // But what is no table is none.
    let utf_16: Vec<u8> = "\u{feff}query,model,quality\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let error = Table::from_csv(&utf_16[..]).unwrap_err();
    assert_eq!((error.kind(), error.row()), (ErrorKind::Value, Some(1)), "{error}");
    assert!(error.to_string().contains("not UTF-8"), "{error}");
    assert_eq!(error_of("").column(), Some("query"));
    let folder = tempfile::tempdir().unwrap();
    for name in ["a.csv", "a.jsonl"] {
        std::fs::create_dir(folder.path().join(name)).unwrap();
        let error = Table::read(&folder.path().join(name)).unwrap_err();
        assert_eq!((error.kind(), error.path()), (ErrorKind::Io, Some(&*folder.path().join(name))), "{error}");
    }
}

#[test]
fn size_caps_hold() {
    let error = error_of(&format!("query,model,quality\n{},small,1\n", "q".repeat(MAX_FIELD_BYTES + 1)));
    assert_eq!((error.kind(), error.row(), error.column()), (ErrorKind::TooLarge, Some(2), Some("query")));
    let columns: String = (0..MAX_COLUMNS).map(|i| format!(",signal.{i}")).collect();
    assert_eq!(error_of(&format!("query,model,quality{columns}\n")).kind(), ErrorKind::TooLarge);
}

#[test]
fn a_missing_quote_does_not_read_without_end() {
    /// Letters for ever, counted.
    struct Endless(usize);
    impl Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            buffer.fill(b'a');
            self.0 += buffer.len();
            assert!(self.0 < 4 * MAX_ROW_BYTES, "read on past the cap");
            Ok(buffer.len())
        }
    }
    let error = Table::from_csv("query,model,quality\n\"".as_bytes().chain(Endless(0))).unwrap_err();
    assert_eq!((error.kind(), error.row()), (ErrorKind::TooLarge, Some(2)));
}

#[test]
fn a_reader_ends_after_an_error() {
    let mut reader = Reader::new(&b"query,model,quality\na,small,2\nb,small,1\n"[..]).unwrap();
    assert!(reader.next().unwrap().is_err());
    assert!(reader.next().is_none());
}

#[test]
fn a_writer_refuses_what_a_reader_would() {
    let mut writer = Writer::new(Vec::new(), ["mean"]).unwrap();
    assert_eq!(writer.write(&full()).unwrap_err().column(), Some("signal.min"));
    assert_eq!(writer.write(&Outcome::new("a", "small", f64::NAN)).unwrap_err().kind(), ErrorKind::Value);
}

#[test]
fn a_file_is_wholly_there_or_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outcomes.csv");
    let mut table = Table::default();
    table.push(full()).unwrap();
    table.write(&path).unwrap();
    assert_eq!(Table::read(&path).unwrap(), table);

    let failed = write_atomically(&path, |file| {
        std::io::Write::write_all(file, b"half").unwrap();
        Err(Error::new(ErrorKind::Io, "the disk is full"))
    });
    assert_eq!(failed.unwrap_err().path(), Some(&*path));
    assert_eq!(Table::read(&path).unwrap(), table, "the older file is untouched");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left behind");

    let error = Table::read(&folder.path().join("none.csv")).unwrap_err();
    assert_eq!((error.kind(), error.path().is_some()), (ErrorKind::Io, true));
    assert_eq!(table.write(&folder.path().join("none/outcomes.csv")).unwrap_err().kind(), ErrorKind::Io);
}

#[test]
fn json_lines_read_back_as_they_were_written_and_as_csv_does() {
    let mut table = Table::default();
    table.push(full()).unwrap();
    table.push(Outcome::new("bare", "small", 0.0)).unwrap();
    let mut lines = Vec::new();
    table.to_json_lines(&mut lines).unwrap();
    let text = String::from_utf8(lines).unwrap();
    assert!(text.ends_with("{\"query\":\"bare\",\"model\":\"small\",\"quality\":0.0}\n"), "{text}");
    assert_eq!(Table::from_json_lines(text.as_bytes()).unwrap(), table);

    let folder = tempfile::tempdir().unwrap();
    let parquet = cfg!(feature = "parquet").then_some("o.parquet");
    for name in ["o.csv", "o.jsonl", "o.ndjson"].into_iter().chain(parquet) {
        table.write(&folder.path().join(name)).unwrap();
        assert_eq!(Table::read(&folder.path().join(name)).unwrap(), table);
    }
    assert_eq!(std::fs::read_to_string(folder.path().join("o.jsonl")).unwrap(), text);
}

#[test]
fn a_bad_line_names_itself_and_its_column() {
    let fine = r#"{"query":"a","model":"small","quality":1,"score":null,"task":""}"#;
    for (line, kind, column) in [
        (r#"{"query":"b","model":"small"}"#, ErrorKind::Columns, Some("quality")),
        (r#"{"query":"b","model":"small","quality":1,"qualty":1}"#, ErrorKind::Columns, Some("qualty")),
        (r#"{"query":"b","model":"small","quality":1,"signal.":1}"#, ErrorKind::Columns, Some("signal.")),
        (r#"{"query":"b","model":"small","quality":1,"quality":0}"#, ErrorKind::Columns, Some("quality")),
        (r#"{"query":"b","model":"small","quality":null}"#, ErrorKind::Value, Some("quality")),
        (r#"{"query":"b","model":"small","quality":"1"}"#, ErrorKind::Value, Some("quality")),
        (r#"{"query":"b","model":"small","quality":1.5}"#, ErrorKind::Value, Some("quality")),
        (r#"{"query":7,"model":"small","quality":1}"#, ErrorKind::Value, Some("query")),
        (r#"{"query":"b","model":"","quality":1}"#, ErrorKind::Value, Some("model")),
        (r#"{"query":"b","model":"small","quality":1,"tokens_in":1.5}"#, ErrorKind::Value, Some("tokens_in")),
        (r#"{"query":"b","model":"small","quality":1,"flops":-1}"#, ErrorKind::Value, Some("flops")),
        (r#"{"query":"b","model":"small","quality":1,"signal.x":[]}"#, ErrorKind::Value, Some("signal.x")),
        (r#"{"query":"b","model":"small","quality":NaN}"#, ErrorKind::Value, None),
        (r#"{"query":"b","model":"small","quality":1e999}"#, ErrorKind::Value, None),
        ("[1]", ErrorKind::Value, None),
        ("\u{1}", ErrorKind::Value, None),
        (fine, ErrorKind::Duplicate, None),
    ] {
        let error = Table::from_json_lines(format!("{fine}\n\n{line}\n").as_bytes()).unwrap_err();
        assert_eq!((error.kind(), error.row(), error.column()), (kind, Some(3), column), "{line}");
    }
    let long = format!("{{\"query\":\"{}\"", "q".repeat(MAX_ROW_BYTES));
    let error = Table::from_json_lines(long.as_bytes()).unwrap_err();
    assert_eq!((error.kind(), error.row()), (ErrorKind::TooLarge, Some(1)));
    assert_eq!(Table::from_json_lines(&b""[..]).unwrap(), Table::default());
}

#[test]
fn a_stream_is_joined_as_its_table_is() {
    let csv = b"query,model,quality,score,flops,signal.x\na,s,1,-0.5,1,3\na,l,1,,9,\nb,s,0,-0.7,1,2\nb,l,1,,9,\nc,other,1,,,\n";
    let cost = crate::cost::CostModel::default();
    let streamed = crate::pairing::Pairing::from_stream(Reader::new(&csv[..]).unwrap(), "s", "l", &cost).unwrap();
    let table = Table::from_csv(&csv[..]).unwrap();
    assert_eq!(streamed, crate::pairing::Pairing::join(table.rows(), "s", "l").unwrap());
    let broken = b"query,model,quality,score,flops\na,s,1,0,1\na,l,2,,1\n";
    let error = crate::pairing::Pairing::from_stream(Reader::new(&broken[..]).unwrap(), "s", "l", &cost).unwrap_err();
    assert_eq!((error.kind(), error.row()), (ErrorKind::Value, Some(3)));
}
