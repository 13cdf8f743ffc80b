#!/usr/bin/env bash
# What a feature costs: the stripped shared library of C in the profile `mobile`, and UniFFI's, as a Markdown table.
# Needs some minutes of processor time for each line.
set -euo pipefail
cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-target}

row() {
  local crate=$1 features=$2
  cargo build --locked --quiet -p "$crate" --lib --profile mobile --no-default-features --features "$features"
  local library
  library=$target/mobile/lib${crate//-/_}.so
  printf '| `%s` | %s | %.1f MB | %.1f MB |\n' "$crate" "${features:-(none)}" \
      "$(stat -c %s "$library" | awk '{ print $1 / 1e6 }')" "$(gzip -9c "$library" | wc -c | awk '{ print $1 / 1e6 }')"
}

printf '| library | features | stripped | in a package (gzip) |\n| --- | --- | --- | --- |\n'
row margay-c ""
row margay-c cloud
row margay-c configuration
row margay-c constrained
row margay-c configuration,constrained
row margay-uniffi constrained
