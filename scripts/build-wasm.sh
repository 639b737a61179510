#!/usr/bin/env bash
# Builds the policy, target/policy.wasm, or what it is measured with, target/yardstick.wasm, or the policy without
# optimisation, in two thirds of the time, target/demo.wasm:
#   scripts/build-wasm.sh [policy|yardstick|demo]
#   scripts/build-wasm.sh --way    prints whose standard library it is
# Owns the one choice there is, whose standard library for wasm32-wasip1 is linked:
#   rustup   the one that rust-toolchain.toml names
#   debian   where rustup may not download: Debian's rustc-web compiles its own sources of it, for size
# WASM_TOOLCHAIN=rustup|debian forces one.
set -euo pipefail
cd "$(dirname "$0")/.."

what=${1:-policy} profile=wasm optimised=1
case $what in
  policy) package=fluid-sidecar-policy ;;
  yardstick) package=yardstick ;;
  demo) package=fluid-sidecar-policy profile=dev optimised='' ;;
  --way) ;;
  *) echo "expected policy, yardstick, demo or --way, not $what" >&2; exit 2 ;;
esac
# The folder that cargo has for the profile.
folder=${profile/dev/debug}
target=wasm32-wasip1
# Paths of this machine would otherwise stand in the module's panic messages, and differ on the next.
rustflags="--remap-path-prefix=$PWD=/src --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"
# LLVM's own measure of what to inline (225) makes the module a fifth larger than its budget and saves a tenth of the
# instructions; optimising for size instead of this costs a quarter more of them (bench/review.md).
rustflags+=" -C llvm-args=-inline-threshold=85"

has_std() { [ -d "$(rustc --print target-libdir --target "$target" 2>/dev/null)" ]; }

choose() {
  if has_std; then echo rustup; return; fi
  # RUSTUP_AUTO_INSTALL=0 says that rustup shall download nothing.
  if [ "${RUSTUP_AUTO_INSTALL:-1}" != 0 ] && command -v rustup >/dev/null \
    && rustup target add "$target" >&2 && has_std; then echo rustup; return; fi
  echo debian
}

way="${WASM_TOOLCHAIN:-$(choose)}"
[ "$what" != --way ] || { echo "$way"; exit; }
case "$way" in
  rustup)
    echo "wasm: rustup's standard library, $(rustc --version)"
    CARGO_TARGET_WASM32_WASIP1_RUSTFLAGS="$rustflags" \
      cargo build --package "$package" --target "$target" --profile "$profile" --locked
    built=${CARGO_TARGET_DIR:-target}/$target/$folder
    ;;
  debian)
    scripts/need.sh wasm
    echo "wasm: rustup has no standard library for $target here; building Debian's, $(/usr/bin/rustc --version)"
    # Of rustup's toolchain, as Debian's own rust-lld comes with another package.
    linker="$(rustc --print sysroot)/lib/rustlib/$(rustc -vV | sed -n 's/^host: //p')/bin/rust-lld"
    # A target folder of its own: two compilers in one would rebuild each other's work.
    RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=target/wasm-debian \
      CARGO_TARGET_WASM32_WASIP1_LINKER="$linker" \
      CARGO_TARGET_WASM32_WASIP1_RUSTFLAGS="$rustflags --remap-path-prefix=/usr/src=/rustc -L native=/usr/lib/wasm32-wasi" \
      cargo build -Zbuild-std=std,panic_abort -Zbuild-std-features=optimize_for_size \
      --package "$package" --target "$target" --profile "$profile" --locked
    built=target/wasm-debian/$target/$folder
    ;;
  *) echo "WASM_TOOLCHAIN must be rustup or debian, not $way" >&2; exit 2 ;;
esac
module=$built/${package//-/_}.wasm
if [ -z "$optimised" ]; then
  :
elif command -v wasm-opt >/dev/null; then
  # The features that rustc uses on this target: what would tell them is stripped.
  wasm-opt -O3 --mvp-features --enable-bulk-memory --enable-multivalue --enable-mutable-globals \
    --enable-nontrapping-float-to-int --enable-reference-types --enable-sign-ext "$module" -o "$built/$what-optimised.wasm"
  module=$built/$what-optimised.wasm
else
  echo "wasm: without wasm-opt (Debian: binaryen) the module is a sixth larger, and slower"
fi
mkdir -p target
cmp -s "$module" "target/$what.wasm" || cp "$module" "target/$what.wasm"
echo "wasm: target/$what.wasm, $(stat -c %s "target/$what.wasm") bytes"
