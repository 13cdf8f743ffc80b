#!/usr/bin/env bash
# An XCFramework of the static library for iOS, its simulator and macOS, and a Swift package that names it by checksum.
#
#     xcframework.sh OUT URL      URL is where MargayFFI.xcframework.zip will be downloaded from
#
# Needs macOS with Xcode, the Rust targets below, and the generator (`pip install uniffi-bindgen==0.31.0`). It has never run: Margay's own machines are Linux.
set -euo pipefail
out=$(mkdir -p "$1" && cd "$1" && pwd) url=$2
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../../.."

library=libmargay_uniffi.a
device=(aarch64-apple-ios)
simulator=(aarch64-apple-ios-sim x86_64-apple-ios)
mac=(aarch64-apple-darwin x86_64-apple-darwin)
for target in "${device[@]}" "${simulator[@]}" "${mac[@]}"; do
  cargo build --locked -p margay-uniffi --lib --profile mobile --target "$target"
done

sources=$out/Sources headers=$out/headers
mkdir -p "$sources" "$headers"
(cd "$here/../uniffi" && uniffi-bindgen generate --language swift --out-dir "$sources" \
    --library ../../../target/aarch64-apple-darwin/mobile/libmargay_uniffi.dylib)
mv "$sources"/*.h "$headers"
cat "$sources"/*.modulemap > "$headers/module.modulemap"
rm "$sources"/*.modulemap
cp "$here"/Sources/*.swift "$sources"

# One library for each kind of machine, with all of its processors.
slice() {
  local name=$1
  shift
  mkdir -p "$out/$name"
  lipo -create "${@/%//mobile/$library}" -output "$out/$name/$library"
}
cd target
slice ios "${device[@]}"
slice simulator "${simulator[@]}"
slice macos "${mac[@]}"
rm -rf "$out/MargayFFI.xcframework"
xcodebuild -create-xcframework -output "$out/MargayFFI.xcframework" \
    -library "$out/ios/$library" -headers "$headers" \
    -library "$out/simulator/$library" -headers "$headers" \
    -library "$out/macos/$library" -headers "$headers"
cd "$out"
rm -f MargayFFI.xcframework.zip
ditto -c -k --keepParent MargayFFI.xcframework MargayFFI.xcframework.zip
checksum=$(swift package compute-checksum MargayFFI.xcframework.zip)
sed -e "s|@URL@|$url|" -e "s|@CHECKSUM@|$checksum|" "$here/Package.swift.in" > Package.swift
