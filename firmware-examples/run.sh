#!/usr/bin/env bash
# Builds every example, checks its size, and runs it under QEMU. The last line counts what passed.
#   run.sh                 everything
#   run.sh build EXAMPLE   builds one for the Cortex-M and prints where its ELF file is
#
# Rust comes from rustup if it can provide the target, else from Debian's packages with the standard library's source.
# FIRMWARE_TOOLCHAIN=rustup or =debian insists on one.
set -euo pipefail
cd "$(dirname "$0")"

arm=thumbv7em-none-eabihf
riscv=riscv32imac-unknown-none-elf
seconds=600 # a program that hangs has failed

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

rustup_has() {
    command -v rustup >/dev/null || return 1
    rustup target list --installed | grep -qx "$1" || timeout 300 rustup target add "$1" >&2
}

# Sets `cargo` and `flags` to what builds for a target.
choose_toolchain() {
    local target=$1
    if [ "${FIRMWARE_TOOLCHAIN:-rustup}" = rustup ]; then
        if rustup_has "$target"; then
            cargo=(cargo)
            flags=(--target "$target")
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
        --target "$target"
        -Zbuild-std=core -Zbuild-std-features=compiler-builtins-mem
        --config "target.$target.linker='ld.lld'"
    )
}

# build TARGET EXAMPLE
build() {
    choose_toolchain "$1"
    "${cargo[@]}" build --locked --release --target-dir target "${flags[@]}" -p "$2" >&2
}

# run TARGET EXAMPLE [ARGUMENT...]: under QEMU, as .cargo/config.toml says; arguments are QEMU's.
run() {
    choose_toolchain "$1"
    timeout "$seconds" "${cargo[@]}" run --quiet --locked --release --target-dir target "${flags[@]}" -p "$2" -- "${@:3}"
}

# size_within TARGET EXAMPLE FLASH RAM: prints what the program takes on the chip, from the sections of its ELF file, and
# fails if that is more than so many bytes.
size_within() {
    local section bytes flash=0 ram=0
    while read -r section _ _ _ bytes _; do
        case $section in .vector_table | .init* | .text* | .rodata* | .data*) flash=$((flash + 16#$bytes)) ;; esac
        case $section in .data* | .bss* | .uninit*) ram=$((ram + 16#$bytes)) ;; esac
    done < <(readelf -SW "target/$1/release/$2" | sed 's/^ *\[ *[0-9]*\] *//')
    printf 'flash %d of %d bytes, static RAM %d of %d bytes\n' "$flash" "$3" "$ram" "$4"
    [ "$flash" -gt 0 ] && [ "$flash" -le "$3" ] && [ "$ram" -le "$4" ]
}

KB=1024

# The golden verdicts on both chips.
verdict_vectors() {
    build $arm verdict-vectors && size_within $arm verdict-vectors $((192 * KB)) $((64 * KB)) &&
        run $arm verdict-vectors
}
verdict_vectors_riscv() {
    need qemu-system-riscv32 qemu-system-misc
    build $riscv verdict-vectors && run $riscv verdict-vectors
}

# All of the policy in one program.
policy_size() {
    build $arm policy-size && size_within $arm policy-size $((32 * KB)) $((64 * KB)) && code_within policy-size $((16 * KB)) &&
        run $arm policy-size
}

# code_within EXAMPLE BYTES: the code of the policy and of the forms it is read from, inlined or not.
code_within() {
    local size name bytes=0
    while read -r _ size _ name; do
        case $name in *margay_policy* | policy_size* | *postcard* | *serde*) bytes=$((bytes + 16#$size)) ;; esac
    done < <(nm -CS "target/$arm/release/$1" | grep -i ' t ')
    printf 'code of the policy %d of %d bytes\n' "$bytes" "$2"
    [ "$bytes" -gt 0 ] && [ "$bytes" -le "$2" ]
}

# A hundred questions to a stand-in for a gateway, on a line with faults.
gateway_link() {
    local address status
    build $arm gateway-link && size_within $arm gateway-link $((32 * KB)) $((64 * KB)) || return 1
    (cd .. && "${host_cargo[@]}" build --quiet --locked -p margay-link --example faulty-gateway) || return 1
    exec 3< <("${CARGO_TARGET_DIR:-../target}/debug/examples/faulty-gateway")
    # Its first line is where it listens, its last what happened; it ends when the device hangs up.
    read -r -t 20 address <&3 || return 1
    run $arm gateway-link -serial "tcp:$address"
    status=$?
    cat <&3
    exec 3<&-
    return $status
}

# The test utterances, typed in. What the device says is to be what the host said, to the last bit of the score.
voice_intents() {
    local said
    build $arm voice-intents && size_within $arm voice-intents $((256 * KB)) $((64 * KB)) || return 1
    said=$(mktemp)
    {
        gzip -dc voice-intents/data/test.jsonl.gz | sed 's/.*"input":"\(.*\)","target":.*/\1/; s/\\\(["\\]\)/\1/g'
        printf '\004'
    } | run $arm voice-intents >"$said" || return 1
    head -n 3 "$said"
    tail -n 3 "$said"
    if sed -n 's/.*\[\([0-9]* [0-9a-f]*\)\]\r*$/\1/p' "$said" | cmp - voice-intents/src/model/expected.txt; then
        printf '%d verdicts have the bits of the host\n' "$(wc -l <voice-intents/src/model/expected.txt)"
        rm -f "$said"
    else
        return 1
    fi
}

if [ "${1:-}" = build ]; then
    need qemu-system-arm qemu-system-arm # the program, and the package of the same name
    build $arm "$2"
    printf '%s\n' "$PWD/target/$arm/release/$2"
    exit
fi

need qemu-system-arm qemu-system-arm
need readelf binutils
if command -v rustup >/dev/null; then host_cargo=(cargo); else host_cargo=(/usr/bin/cargo); fi

passed=0
failed=0
for program in verdict_vectors verdict_vectors_riscv policy_size gateway_link voice_intents; do
    printf '\n== %s\n' "${program//_/-}"
    if $program; then
        passed=$((passed + 1))
    else
        printf 'FAILED\n'
        failed=$((failed + 1))
    fi
done

printf '\n%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" = 0 ]
