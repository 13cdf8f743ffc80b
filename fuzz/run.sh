#!/usr/bin/env bash
# Runs every target for so many seconds, on a stable compiler: fuzz/run.sh [SECONDS] [TARGET...]
# libFuzzer comes with the crate libfuzzer-sys and needs a C++ compiler. `cargo fuzz run TARGET` works too, on nightly.
set -euo pipefail
cd "$(dirname "$0")"

seconds=${1:-60}
shift || true
targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(sed -n 's|^path = "targets/\(.*\)\.rs"|\1|p' Cargo.toml)

# What cargo-fuzz passes, without a sanitizer: edge coverage, comparisons, and a panic that ends the program.
flags="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
flags+=" -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
flags+=" -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"
host=$(rustc -vV | sed -n 's/^host: //p')
# With --target, build scripts and macros stay without coverage.
RUSTFLAGS="$flags" cargo build --release --quiet --target "$host" "${targets[@]/#/--bin=}"
for target in "${targets[@]}"; do
    mkdir -p "corpus/$target"
    printf '%s: ' "$target"
    log=$(mktemp)
    # Inputs it finds stay in corpus/, seeds are read from seeds/; an input that fails is left as crash-... in the folder.
    if "target/$host/release/$target" "corpus/$target" "seeds/$target" \
        -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 >"$log" 2>&1; then
        sed -n 's/^stat::number_of_executed_units: *\([0-9]*\)/\1 inputs, none fails/p' "$log"
    else
        printf 'FAILED\n'
        tail -n 40 "$log"
        exit 1
    fi
done
