# shellcheck shell=bash
# The images of the tests: busybox; work (redis, nginx, PostgreSQL,
# python3, procps, curl); and, for `make test-apps`, apps with the programs
# of integration/apps. No image is pulled. Each is one layer of Debian
# packages, in the docker-archive format that both `ctr image import` and
# `docker load` read.

WORK_PACKAGES=postgresql,python3-minimal,redis-server,nginx-light,procps,curl,iproute2
# Of sid, because glibc 2.42 and later use guard regions (madvise) for threads' stacks
# instead of inaccessible pages, and restores must handle them.
APPS_PACKAGES=mariadb-server,mariadb-client,chromium,nodejs,default-jre-headless,gunicorn,rabbitmq-server,haproxy,sqlite3,openssh-server,openssh-client,make,gcc,libc6-dev,redis-server,nginx-light,postgresql,python3,python3-pymysql,python3-psycopg2,python3-pika,python3-websocket,procps,iproute2
# The compilers of our own servers, removed after the build.
APPS_COMPILERS=golang-go,default-jdk-headless
APPS_SERVERS=$(readlink -f "${BASH_SOURCE[0]%/*}/../../integration/apps/servers")

busybox_layer() { # TAR
  local tree=$1.d
  mkdir "$tree"
  mmdebstrap --quiet --variant=extract --include=busybox-static \
    --dpkgopt='path-exclude=/usr/share/*' trixie "$tree/deb" "$DEBIAN_MIRROR"
  mkdir -p "$tree"/root/{bin,dev,etc,proc,root,run,sys,tmp,usr/bin,var}
  chmod 0755 "$tree/root"
  chmod 1777 "$tree/root/tmp"
  cp "$tree/deb/usr/bin/busybox" "$tree/root/bin/busybox"
  # Each applet is a link beside busybox.
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

apps_layer() { # TAR
  # Sid's Release file may be expired on a mirror. Java's packages can't be
  # installed without the directory of the manual pages.
  # shellcheck disable=SC2016 # $1 in the hooks is for mmdebstrap's shell
  mmdebstrap --verbose --variant=minbase --include="$APPS_PACKAGES,$APPS_COMPILERS" --format=tar \
    --aptopt='Acquire::Check-Valid-Until "false"' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --essential-hook='mkdir -p "$1/usr/share/man/man1"' \
    --customize-hook="copy-in $APPS_SERVERS /usr/src" \
    --customize-hook='chroot "$1" env HOME=/tmp sh -euc "
      cd /usr/src/servers
      go build -o /usr/local/bin/go-server server.go
      javac -d /usr/local/share/java-server Server.java
      gcc -shared -fPIC -o /usr/local/lib/not-root.so not-root.c
      rm -rf /tmp/* /tmp/.[!.]*"' \
    --customize-hook="DEBIAN_FRONTEND=noninteractive chroot \"\$1\" apt-get purge -qy --autoremove ${APPS_COMPILERS//,/ }" \
    --customize-hook='chroot "$1" sh -euc "apt-get clean; rm -rf /var/lib/apt/lists/* /var/lib/mariadb/* /var/lib/postgresql/*"' \
    sid "$1" "$DEBIAN_MIRROR" >"$1.log" 2>&1 || {
    tail -n 20 "$1.log" >&2
    return 1
  }
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

image_path() { # NAME: prints the path of the image's archive in the cache
  local digest
  digest=$(recipe image_archive "$1_layer" WORK_PACKAGES)
  [[ $1 != apps ]] ||
    digest=$( (recipe image_archive apps_layer APPS_PACKAGES APPS_COMPILERS && cat "$APPS_SERVERS"/*) | sha256sum | cut -c1-12)
  echo "$TESTBED_HOME/images/$1-$digest.tar"
}

build_images() {
  local name
  for name in busybox work; do
    cached "$(image_path "$name")" image_archive "$name" "${name}_layer"
  done
}

build_apps_image() {
  cached "$(image_path apps)" image_archive apps apps_layer
}
