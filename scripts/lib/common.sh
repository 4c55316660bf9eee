# shellcheck shell=bash
# Functions of all scripts: messages, the path of the cache, and additions to the
# cache, which are complete or absent.

TESTBED_HOME=${TESTBED_HOME:-/var/tmp/cedana-testbed}
DEBIAN_MIRROR=${DEBIAN_MIRROR:-http://deb.debian.org/debian}

die() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

need_root() { [[ $EUID -eq 0 ]] || die "this needs root: mounts, namespaces and cgroups"; }

# host_packages COMMAND=PACKAGE...: installs the packages of missing commands.
# One caller at a time, because scripts run in parallel.
host_packages() {
  local pair lock missing=()
  for pair; do
    command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
  done
  ((${#missing[@]})) || return 0
  mkdir -p "$TESTBED_HOME"
  exec {lock}>"$TESTBED_HOME/packages.lock"
  flock "$lock"
  command -v apt-get >/dev/null ||
    die "please install ${missing[*]}: this machine has no apt-get"
  say "installing ${missing[*]}"
  apt-get update -q >/dev/null || say "apt-get update failed, trying with the existing package lists"
  DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 install -y --no-install-recommends "${missing[@]}" >/dev/null ||
    die "apt-get could not install ${missing[*]}"
  exec {lock}>&-
}

# recipe NAME...: a short digest of the functions and variables that create a cache
# entry. It is part of the entry's path, so a changed recipe creates a new entry.
recipe() {
  local name
  for name; do declare -f "$name" || declare -p "$name"; done | sha256sum | cut -c1-12
}

# cached PATH FUNCTION ARGS...: creates PATH by `FUNCTION ARGS... TEMP` unless it
# exists. TEMP is renamed to PATH when it is complete; TEMP.* are temporary files. A
# second caller waits for the first. Leftovers of an interrupted caller are removed.
cached() {
  local path=$1 lock
  shift
  [[ ! -e $path ]] || return 0
  mkdir -p "${path%/*}"
  exec {lock}>"$path.lock"
  flock -n "$lock" || {
    say "waiting for another build of ${path##*/}"
    flock "$lock"
  }
  if [[ ! -e $path ]]; then
    say "making ${path#"$TESTBED_HOME"/}"
    rm -rf "$path.partial"*
    # A subshell with its own errexit, which bash ignores for functions in conditions.
    (
      set -e
      "$@" "$path.partial"
    ) {lock}>&- &
    wait $! || die "making $path failed; the output is above or in $path.log"
    mv -T "$path.partial" "$path"
    rm -rf "$path.partial".*
  fi
  exec {lock}>&-
}
