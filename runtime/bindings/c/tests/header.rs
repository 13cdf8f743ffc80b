//! The committed header is the one that these sources make. `MARGAY_HEADER=write` writes it anew.

use std::path::Path;

#[test]
fn the_header_is_that_of_the_sources() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).unwrap();
    let sources = ["status", "bundle", "request", "engine", "choose", "cloud", "redaction", "cascade", "answer"];
    let mut builder = cbindgen::Builder::new().with_config(config);
    for source in sources {
        builder = builder.with_src(root.join(format!("src/{source}.rs")));
    }
    let mut made = Vec::new();
    builder.generate().unwrap().write(&mut made);
    let path = root.join("include/margay.h");
    if std::env::var("MARGAY_HEADER").is_ok_and(|what| what == "write") {
        std::fs::write(&path, &made).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap();
    assert!(
        committed == String::from_utf8(made).unwrap(),
        "`MARGAY_HEADER=write cargo test -p margay-c --test header`"
    );
    // Every source with an exported function is among them.
    for entry in std::fs::read_dir(root.join("src")).unwrap() {
        let path = entry.unwrap().path();
        let exports = std::fs::read_to_string(&path).unwrap().contains("#[unsafe(no_mangle)]");
        assert!(!exports || sources.contains(&path.file_stem().unwrap().to_str().unwrap()), "{}", path.display());
    }
}
