# shellcheck shell=bash
# Measures the steps of a run and prints them as a table when the run ends. STEPS
# names the file with one line per step. The script that sets it prints the
# table; the scripts that it calls only add lines.

# begin_steps [CLEAN_UP]: starts the table, unless a calling script has started it.
# CLEAN_UP is a command that the script runs on exit.
begin_steps() {
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  if [[ -n ${STEPS:-} ]]; then
    # shellcheck disable=SC2064 # it is a command
    trap "status=\$?; set +e; ${1:-:}; exit \$status" EXIT
    return 0
  fi
  STEPS=$(mktemp)
  export STEPS
  # shellcheck disable=SC2064
  trap "status=\$?; set +e; ${1:-:}; end_steps \$status; exit \$status" EXIT
}

# step NAME COMMAND...: runs COMMAND; records its seconds, and its status if it failed.
step() {
  local name=$1 begin=$EPOCHREALTIME status=0
  shift
  "$@" || status=$?
  record "$name" "$begin" "$status"
  return "$status"
}

# record NAME BEGIN [STATUS]: adds a step that began at BEGIN ($EPOCHREALTIME) and ends now.
record() {
  local microseconds=$((${EPOCHREALTIME/./} - ${2/./}))
  printf '%d.%d\t%s%s\n' $((microseconds / 1000000)) $((microseconds / 100000 % 10)) "$1" \
    "$( ((${3:-0} == 0)) || echo ' (failed)')" >>"$STEPS"
}

end_steps() { # STATUS
  printf '\n%8s  step\n' seconds
  awk -F '\t' '{ printf "%8.1f  %s\n", $1, $2 }' "$STEPS"
  printf '%8d  the whole run, which %s\n' "$SECONDS" "$( (($1 == 0)) && echo passed || echo FAILED)"
  rm -f "$STEPS"
}
