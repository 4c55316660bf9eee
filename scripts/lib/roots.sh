# shellcheck shell=bash
# The cached root of a suite, and the initial state of its engines.
#
#   root   Debian with the suite's containerd, Docker, runc, crun, Podman, and
#          CRIU of sid: older than 4.2 can't dump a container with an INET
#          socket on kernels newer than 6.15.
#   state  /var/lib/containerd and /var/lib/docker with the images, so that an
#          instance doesn't import 400 MB. The unpacked layers are in layers/N. An
#          instance doesn't copy them but mounts them at the paths in layers/paths.

SUITES=(trixie sid)
ROOT_PACKAGES=containerd,runc,crun,docker.io,docker-cli,podman,conmon,checkpointctl,iproute2,iptables,nftables,procps,python3,ca-certificates,strace,curl,zstd,e2fsprogs,erofs-utils,fuse-overlayfs,openssl,python3-grpcio,redis-server,redis-tools

check_suite() {
  local suite
  for suite in "${SUITES[@]}"; do [[ $1 != "$suite" ]] || return 0; done
  die "unknown suite '$1'; choose one of: ${SUITES[*]}"
}

make_root() { # SUITE DIR
  # Sid's Release file may be expired on a mirror. --quiet still prints
  # errors; the log has dpkg's output, which is needed only after a failure.
  # shellcheck disable=SC2016 # $1 in the hooks is for mmdebstrap's shell
  mmdebstrap --quiet --variant=minbase --include="$ROOT_PACKAGES" \
    --aptopt='Acquire::Check-Valid-Until "false"' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --customize-hook="echo 'deb $DEBIAN_MIRROR sid main' >\"\$1/etc/apt/sources.list.d/criu.list\"" \
    --customize-hook='printf "Package: *\nPin: release n=sid\nPin-Priority: 100\n" >"$1/etc/apt/preferences.d/criu"' \
    --customize-hook='chroot "$1" apt-get update -q' \
    --customize-hook='DEBIAN_FRONTEND=noninteractive chroot "$1" apt-get install -qy --no-install-recommends criu/sid' \
    --customize-hook='mkdir -p "$1/etc/docker" "$1/var/lib/containerd" "$1/var/lib/docker"' \
    "$1" "$2" "$DEBIAN_MIRROR" >"${2%.partial}.log" 2>&1
}

make_state() { # SUITE DIR
  local suite=$1 out=$2 path n=0
  mkdir -p "$out"/{containerd,docker,layers}
  # shellcheck disable=SC2016 # expands in the instance
  run_instance "$suite" --docker --state "$out" \
    --mount "$TESTBED_HOME/images:/mnt" -- bash -euc '
      for archive; do
        ctr image import "/mnt/$archive" >/dev/null
        docker load --quiet --input "/mnt/$archive" >/dev/null
      done
      engine stop dockerd
      engine stop containerd' _ "$(basename "$(image_path busybox)")" "$(basename "$(image_path work)")"
  : >"$out/layers/paths"
  for path in "$out"/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/*/fs "$out"/docker/overlay2/*/diff; do
    n=$((n + 1))
    mv -T "$path" "$out/layers/$n"
    mkdir "$path"
    echo "$n ${path#"$out"/}" >>"$out/layers/paths"
  done
  mv "$out/containerd/io.containerd.content.v1.content" "$out/content"
  mkdir "$out/containerd/io.containerd.content.v1.content"
}

root_path() { echo "$TESTBED_HOME/roots/$1-$(recipe make_root ROOT_PACKAGES)"; }

state_path() {
  echo "$TESTBED_HOME/state/$1-$( (recipe make_state && root_path "$1" && image_path busybox && image_path work) | sha256sum | cut -c1-12)"
}

build_suite() { # SUITE
  check_suite "$1"
  host_packages mmdebstrap=mmdebstrap
  cached "$(root_path "$1")" make_root "$1"
  build_images
  cached "$(state_path "$1")" make_state "$1"
}
