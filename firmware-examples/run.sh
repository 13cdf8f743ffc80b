#!/usr/bin/env bash
# Builds every example for a Cortex-M4F and runs it under QEMU. The last line counts what passed.
#
# Rust comes from rustup if it can provide the target, else from Debian's packages with the standard library's source.
# FIRMWARE_TOOLCHAIN=rustup or =debian insists on one.
set -euo pipefail
cd "$(dirname "$0")"

target=thumbv7em-none-eabihf
seconds=300 # a program that hangs has failed

say() { printf '%s\n' "$*" >&2; }

# need FILE PACKAGE...: installs the packages if the program or file is missing and we may, else says what to install.
need() {
    local file=$1
    shift
    if command -v "$file" >/dev/null || [ -e "$file" ]; then return; fi
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "installing $*"
        if ! apt-get install -qq -y --no-install-recommends "$@" >/dev/null 2>&1; then
            apt-get update -qq >&2
            apt-get install -qq -y --no-install-recommends "$@" >/dev/null
        fi
    else
        say "$file is missing: install $* (names of the Debian packages)"
        exit 1
    fi
}

rustup_has_target() {
    command -v rustup >/dev/null || return 1
    rustup target list --installed | grep -qx "$target" || timeout 300 rustup target add "$target" >&2
}

# Sets `cargo` and `flags` to what builds for the target.
choose_toolchain() {
    if [ "${FIRMWARE_TOOLCHAIN:-rustup}" = rustup ]; then
        if rustup_has_target; then
            cargo=(cargo)
            flags=()
            return
        fi
        if [ -n "${FIRMWARE_TOOLCHAIN:-}" ]; then
            say "rustup cannot provide $target"
            exit 1
        fi
    fi
    need /usr/lib/rustlib/src/rust rustc-web cargo-web rust-web-src
    need ld.lld lld
    # build-std is unstable; the variable lets a stable compiler use it.
    cargo=(env RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 /usr/bin/cargo)
    flags=(
        -Zbuild-std=core -Zbuild-std-features=compiler-builtins-mem
        --config "target.$target.linker='ld.lld'"
    )
}

# Bytes that the program takes on the chip, from the sections of its ELF file.
print_size() {
    command -v readelf >/dev/null || return 0
    local section bytes flash=0 ram=0
    while read -r section _ _ _ bytes _; do
        case $section in .vector_table | .text | .rodata | .data) flash=$((flash + 16#$bytes)) ;; esac
        case $section in .data | .bss | .uninit) ram=$((ram + 16#$bytes)) ;; esac
    done < <(readelf -SW "$1" | sed 's/^ *\[ *[0-9]*\] *//')
    printf 'flash %d bytes, static RAM %d bytes\n' "$flash" "$ram"
}

choose_toolchain
need qemu-system-arm qemu-system-arm # the program, and the package of the same name

passed=0
failed=0
for manifest in */Cargo.toml; do
    example=$(dirname "$manifest")
    printf '\n== %s\n' "$example"
    if "${cargo[@]}" build --locked --release --target-dir target "${flags[@]}" -p "$example" &&
        print_size "target/$target/release/$example" &&
        timeout "$seconds" "${cargo[@]}" run --quiet --locked --release --target-dir target "${flags[@]}" -p "$example"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
    fi
done

printf '\n%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" = 0 ]
