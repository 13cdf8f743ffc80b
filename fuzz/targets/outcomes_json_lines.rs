//! A table read from JSON Lines can be written and read again, with the same rows.
#![no_main]

use libfuzzer_sys::fuzz_target;
use margay_evaluation::outcome::Table;

fuzz_target!(|bytes: &[u8]| {
    let Ok(table) = Table::from_json_lines(bytes) else { return };
    let mut written = Vec::new();
    table.to_json_lines(&mut written).expect("a table can be written");
    let again = Table::from_json_lines(written.as_slice()).expect("what was written can be read");
    assert_eq!(again.rows().len(), table.rows().len());
});
