# shellcheck shell=bash
# Building what is shipped and what tests it, and finding where Cargo put it.

REPO=$(readlink -f "${BASH_SOURCE[0]%/*}/../..")
SHIPPED=(containerd-shim-cedana-v2 cedana-runc)

# executables KIND CARGO_ARG...: builds, and prints the executables of that kind
# (bin, test), one per line. Cargo's JSON is one object per line with its keys in
# a fixed order, so that it takes neither jq nor python.
executables() {
  local kind=$1
  shift
  (cd "$REPO" && cargo "$@" --message-format=json-render-diagnostics) |
    sed -n 's/.*"kind":\["'"$kind"'"\].*"executable":"\([^"]*\)".*/\1/p'
}

build_shipped() { # DIR [CARGO_ARG]...: the shipped binaries, release profile, alone in a folder
  local dir=$1 path paths
  shift
  paths=$(executables bin build --release -p cedana-shim -p cedana-runtime "$@")
  for path in $paths; do install -m 0755 "$path" "$dir/"; done
  for path in "${SHIPPED[@]}"; do
    [[ -x $dir/$path ]] || die "the build made no $path"
  done
}
