//! A table read from Parquet is the same when it is written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use margay_evaluation::outcome::Table;

fuzz_target!(|bytes: &[u8]| {
    let Ok(table) = Table::from_parquet(bytes.to_vec()) else { return };
    let mut written = Vec::new();
    table.to_parquet(&mut written).expect("a table can be written");
    assert_eq!(Table::from_parquet(written).expect("what was written can be read"), table);
});
