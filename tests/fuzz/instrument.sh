#!/bin/sh
# Cargo's wrapper (RUSTC_WORKSPACE_WRAPPER) around rustc for `cargo xtask fuzz`: instruments the crates of
# this workspace as libFuzzer needs them. What they depend on is the tests' build, used again.
set -eu
for argument in "$@"; do
    case "$argument" in
    # These are without the fuzzer that the instrumentation calls.
    build_script_build | upstream_issues) exec "$@" ;;
    esac
done
exec "$@" \
    --cfg=fuzzing \
    -Copt-level=1 \
    -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares
