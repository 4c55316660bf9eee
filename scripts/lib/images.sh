# shellcheck shell=bash
# The two images that tests run: busybox, and work (redis, nginx, PostgreSQL,
# python3, procps, curl). Nothing is pulled: each is one layer made from Debian
# packages, in the docker-archive form that both `ctr image import` and
# `docker load` read.

WORK_PACKAGES=postgresql,python3-minimal,redis-server,nginx-light,procps,curl,iproute2

busybox_layer() { # TAR
  local tree=$1.d
  mkdir "$tree"
  mmdebstrap --quiet --variant=extract --include=busybox-static \
    --dpkgopt='path-exclude=/usr/share/*' trixie "$tree/deb" "$DEBIAN_MIRROR"
  mkdir -p "$tree"/root/{bin,dev,etc,proc,root,run,sys,tmp,usr/bin,var}
  chmod 0755 "$tree/root"
  chmod 1777 "$tree/root/tmp"
  cp "$tree/deb/usr/bin/busybox" "$tree/root/bin/busybox"
  # Prints each applet's full path; a link beside busybox itself serves them all.
  "$tree/root/bin/busybox" --list | while read -r applet; do
    [[ $applet == busybox ]] || ln -s busybox "$tree/root/bin/$applet"
  done
  printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$tree/root/etc/passwd"
  printf 'root:x:0:\nnogroup:x:65534:\n' >"$tree/root/etc/group"
  tar -C "$tree/root" --numeric-owner -cf "$1" .
}

work_layer() { # TAR
  mmdebstrap --quiet --variant=minbase --include="$WORK_PACKAGES" --format=tar \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    trixie "$1" "$DEBIAN_MIRROR"
}

image_archive() { # NAME LAYER_FUNCTION OUT
  local name=$1 layer_function=$2 out=$3 dir=$3.d diff config
  mkdir "$dir"
  "$layer_function" "$dir/layer.tar"
  diff=$(sha256sum "$dir/layer.tar" | cut -d' ' -f1)
  printf '{"architecture":"%s","os":"linux","created":"2026-01-01T00:00:00Z","config":{"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"Cmd":["sh"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]},"history":[{"created_by":"cedana testbed"}]}' \
    "$(dpkg --print-architecture)" "$diff" >"$dir/config"
  config=$(sha256sum "$dir/config" | cut -d' ' -f1)
  mv "$dir/config" "$dir/$config.json"
  mkdir "$dir/$diff"
  mv "$dir/layer.tar" "$dir/$diff/layer.tar"
  printf '[{"Config":"%s.json","RepoTags":["docker.io/library/%s:latest"],"Layers":["%s/layer.tar"]}]' \
    "$config" "$name" "$diff" >"$dir/manifest.json"
  tar -C "$dir" -cf "$out" "$config.json" manifest.json "$diff/layer.tar"
}

image_path() { # NAME: where the image's archive is in the cache
  echo "$TESTBED_HOME/images/$1-$(recipe image_archive "$1_layer" WORK_PACKAGES).tar"
}

build_images() {
  local name
  for name in busybox work; do
    cached "$(image_path "$name")" image_archive "$name" "${name}_layer"
  done
}
