//! Writes `tests/golden/verdicts.bin`. To be run only when verdicts are meant to change, which breaks every
//! calibrated threshold.

#[path = "../tests/golden/streams.rs"]
mod streams;

fn main() -> std::io::Result<()> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/verdicts.bin");
    let bytes: Vec<u8> = (0..streams::STREAMS).flat_map(streams::record).collect();
    std::fs::write(path, bytes)
}
