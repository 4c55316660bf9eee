# shellcheck shell=bash
# Builds the shipped binaries and the tests, and finds where Cargo put them.

REPO=$(readlink -f "${BASH_SOURCE[0]%/*}/../..")
SHIPPED=(containerd-shim-cedana-v2 cedana-runc cedana)

# built PATTERN CARGO_ARG...: builds, and prints the executables that match, one per
# line. Cargo's JSON is one object per line with its keys in a fixed order, so sed can
# parse it.
built() {
  local pattern=$1
  shift
  (cd "$REPO" && cargo "$@" --locked --message-format=json-render-diagnostics) |
    sed -n 's/.*'"$pattern"'.*"executable":"\([^"]*\)".*/\1/p'
}

# executables KIND CARGO_ARG...: builds, and prints the executables of that kind
# (bin, test).
executables() { built '"kind":\["'"$1"'"\]' "${@:2}"; }

# stories CARGO_ARG...: builds tests, and prints those of integration/. As all builds
# without optimization it is one of the workspace: Cargo chooses the features of the
# dependencies for all packages that it builds, and for fewer it would build many again.
stories() { built '#cedana-integration@.*"kind":\["test"\]' test --workspace --no-run "$@"; }

# build_shipped DIR [test]: builds the shipped binaries, release profile, and copies
# them to DIR. With `test` they have the hooks of the integration tests (the feature
# test-hooks), which shipped binaries must not have.
build_shipped() {
  local path paths features=()
  [[ ${2:-} != test ]] || features=(--features cedana-runtime/test-hooks)
  local command=(-p cedana-cli)
  [[ ${2:-} != test ]] || command=()
  paths=$(executables bin build --release -p cedana-shim -p cedana-runtime "${command[@]}" "${features[@]}")
  # The command, and the front end of the stories of plain processes, in the tests' own
  # profile: another two minutes of building would test nothing more.
  [[ ${2:-} != test ]] ||
    paths+=" $(executables bin build --workspace --bin cedana --bin cedana-process)"
  for path in $paths; do install -m 0755 "$path" "$1/"; done
  for path in "${SHIPPED[@]}"; do
    [[ -x $1/$path ]] || die "the build did not create $path"
  done
}
