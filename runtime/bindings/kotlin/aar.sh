#!/usr/bin/env bash
# An Android archive of the Kotlin bindings and their native libraries.
#
#     aar.sh OUT.aar                     builds the libraries with cargo-ndk (ANDROID_NDK_HOME, `cargo install cargo-ndk`)
#     MARGAY_JNI=DIR aar.sh OUT.aar      takes them from DIR/ABI/libmargay_uniffi.so instead
#
# MARGAY_CLASSES is the jar of the compiled bindings: `generate.sh` writes them, `src` goes with them, and
# `cargo test -p margay-uniffi --test kotlin` shows the compiler's flags. Packing is
# tested on Linux; building with the NDK has never run: there is none on Margay's own machines.
set -euo pipefail
out=$(realpath -m "$1")
here=$(cd "$(dirname "$0")" && pwd)
: "${MARGAY_CLASSES:?the jar of the compiled bindings}"
staging=$(mktemp -d)
trap 'rm -rf "$staging"' EXIT

if [ -n "${MARGAY_JNI:-}" ]; then
  cp -r "$MARGAY_JNI" "$staging/jni"
else
  # The library's own build script asks for pages of 16 KB, which Android 15 has and newer NDKs give by themselves.
  (cd "$here/../../.." && cargo ndk --platform 24 -t arm64-v8a -t armeabi-v7a -t x86_64 -o "$staging/jni" \
      build --locked -p margay-uniffi --lib --profile mobile)
fi
cp "$MARGAY_CLASSES" "$staging/classes.jar"
cp "$here/AndroidManifest.xml" "$staging"
cp "$here/consumer-rules.pro" "$staging/proguard.txt"
touch "$staging/R.txt"
rm -f "$out"
(cd "$staging" && python3 -m zipfile -c "$out" AndroidManifest.xml classes.jar proguard.txt R.txt jni)
