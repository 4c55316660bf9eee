# shellcheck shell=bash
# Programs that check the project and that Debian doesn't have, in versions that are
# known to agree with it. They are installed into the cache.

CARGO_DENY=0.20.2
CARGO_FUZZ=0.13.2
RUFF=0.17.6

TOOLS=$TESTBED_HOME/tools
export PATH=$TOOLS/bin:$PATH

cargo_tool() { # NAME VERSION
  [[ ! -x $TOOLS/$1-$2 ]] || return 0
  # Without optimization: it takes a third of the time to compile, and runs for
  # seconds.
  cargo install "$1" --version "$2" --locked --debug --force --root "$TOOLS" \
    --target-dir "$TOOLS/target"
  rm -rf "$TOOLS/target"
  ln -sf "bin/$1" "$TOOLS/$1-$2"
}

python_tool() { # NAME VERSION
  [[ ! -x $TOOLS/$1-$2 ]] || return 0
  host_packages pip3=python3-pip
  pip3 install --quiet --no-cache-dir --disable-pip-version-check --root-user-action ignore \
    --upgrade --target "$TOOLS/python" "$1==$2"
  mkdir -p "$TOOLS/bin"
  ln -sf "../python/bin/$1" "$TOOLS/bin/$1"
  ln -sf "bin/$1" "$TOOLS/$1-$2"
}
