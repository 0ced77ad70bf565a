#!/bin/sh
# Cargo's wrapper (RUSTC_WORKSPACE_WRAPPER) around rustc for `cargo xtask image --fast`: links the agent
# without shared libraries. All but that last step is the tests' build, used again.
set -eu
case " $* " in
*" --crate-name sockline "*" --crate-type bin "*) exec "$@" -Ctarget-feature=+crt-static ;;
*) exec "$@" ;;
esac
