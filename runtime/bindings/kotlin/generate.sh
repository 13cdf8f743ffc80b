#!/usr/bin/env bash
# Kotlin's bindings for a library: generate.sh LIBRARY OUT. Needs `pip install uniffi-bindgen==0.31.0`.
set -euo pipefail
library=$(realpath "$1") out=$(realpath -m "$2")
cd "$(dirname "$0")/../uniffi" # where `uniffi.toml` is
uniffi-bindgen generate --no-format --language kotlin --library "$library" --out-dir "$out"
# UniFFI 0.31 refuses a closed object whose method is called, but as an argument it passes its freed handle on: memory of
# somebody else's by then. This way both are refused.
source=$out/dev/margay/margay_uniffi.kt
sed -i.before 's/return value\.uniffiCloneHandle()/return value.callWithHandle { it }/' "$source"
if cmp -s "$source" "$source.before"; then
  echo "$source: UniFFI writes something else now; see here whether it is still needed" >&2
  exit 1
fi
rm "$source.before"
