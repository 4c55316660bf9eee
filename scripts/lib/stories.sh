# shellcheck shell=bash
# Which test binaries of integration/tests run where, and with what.

# runs SUITE TEST: the runs of a test binary on a suite, one a line:
#   WHEN TITLE OPTION...
# WHEN is `ci` or `all` (only with --all). TITLE has underscores for blanks; `-` is
# the test's name alone. OPTIONs are the testbed's; DROP_IN is the folder with the
# shim under the name of containerd's own.
#
# - By path Docker 28 can't restore: what it answers is among the stories of docker.
# - In place of containerd's own shim clients send all that they have: ctr 1.7 drops
#   the flags of `task checkpoint` for any other name. Docker passes all options on,
#   too, and restores runtimes by path on every version.
runs() {
  local path='--env CEDANA_TEST_DOCKER_RUNTIME=cedana-path'
  local in_place='--bin DROP_IN --env CEDANA_TEST_RUNTIME=io.containerd.runc.v2'
  case $2 in
  docker)
    echo "ci -"
    echo "all by_path $path"
    [[ $1 != sid ]] || {
      echo "all in_place_of_containerd's_own_shim,_as_runc $in_place --env CEDANA_TEST_DOCKER_RUNTIME=runc"
      echo "all in_place_of_containerd's_own_shim,_as_cedana-path $in_place $path"
    }
    ;;
  docker_matrix)
    echo "ci -"
    [[ $1 != trixie ]] || echo "all by_path $path"
    ;;
  checkpoint | pause)
    echo "ci -"
    echo "ci in_place_of_containerd's_own_shim $in_place"
    ;;
  apps) echo "apps -" ;;
  *) echo "ci -" ;;
  esac
}
