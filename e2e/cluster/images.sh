#!/usr/bin/env bash
# The Pods' images, made without a registry.
#
#   images.sh build            make them in the cache, where what they are made of has changed
#   images.sh import SOCKET    give them to the containerd that listens there
#   images.sh --version        the tag of fluid-fuse
#
# Each is a docker-archive: a layer, a configuration and a manifest. An image without a tag, or :latest, is pulled
# by default (imagePullPolicy Always), which must fail here: name one of the tags below, or say IfNotPresent.
set -euo pipefail
# shellcheck source=e2e/cluster/common.sh
source "$(dirname "$0")/common.sh"
images=$cache/images

# The image of folder ROOT with TAGS, as the file NAME.tar. PROGRAM is JSON of its Entrypoint or Cmd.
pack() { # NAME ROOT PROGRAM TAG...
  local name=$1 root=$2 program=$3 work
  shift 3
  work=$(mktemp -d)
  tar -C "$root" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf "$work/layer.tar" .
  jq -nc --arg layer "sha256:$(sha256sum <"$work/layer.tar" | cut -d ' ' -f 1)" --argjson program "$program" \
    --arg arch "$(dpkg --print-architecture)" '{architecture: $arch, os: "linux",
      config: ($program + {Env: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}),
      rootfs: {type: "layers", diff_ids: [$layer]}}' >"$work/config.json"
  jq -nc '[{Config: "config.json", RepoTags: ($ARGS.positional | map("docker.io/library/" + .)), Layers: ["layer.tar"]}]' \
    --args "$@" >"$work/manifest.json"
  tar -C "$work" -cf "$images/$name.new" manifest.json config.json layer.tar
  mv "$images/$name.new" "$images/$name.tar"
  rm -rf "$work"
}

build() {
  [ -x "$FLUID_FUSE" ] || die "no sidecar at $FLUID_FUSE: run make tools, or set FLUID_FUSE"
  "$project/scripts/need.sh" cluster
  local stamp root applet
  stamp=$(cat "$0" /bin/busybox "$FLUID_FUSE" | sha256sum)
  [ "$(cat "$images/stamp" 2>/dev/null)" != "$stamp" ] || return 0
  say "making the Pods' images"
  mkdir -p "$images"
  root=$(mktemp -d)
  # shellcheck disable=SC2064 # this folder, whatever the variable is by then
  trap "rm -rf '$root'" EXIT

  # Holds a Pod's namespaces, and reaps when the Pod shares its pid namespace.
  mkdir "$root/pause"
  gcc -O2 -static -o "$root/pause/pause" -x c - <<'EOF'
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
static void end(int signal) { _exit(0); }
static void reap(int signal) { while (waitpid(-1, 0, WNOHANG) > 0); }
int main(void) {
  signal(SIGTERM, end), signal(SIGINT, end), signal(SIGCHLD, reap);
  for (;;) pause();
}
EOF
  pack pause "$root/pause" '{"Entrypoint": ["/pause"]}' pause:1

  mkdir -p "$root"/busybox/{bin,dev,etc,proc,root,run,sys,tmp,usr/bin,var}
  chmod 1777 "$root/busybox/tmp"
  printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n' >"$root/busybox/etc/passwd"
  printf 'root:x:0:\nnogroup:x:65534:\n' >"$root/busybox/etc/group"
  cp /bin/busybox "$root/busybox/bin/"
  for applet in $(/bin/busybox --list-full); do
    mkdir -p "$root/busybox/$(dirname "$applet")"
    [ -e "$root/busybox/$applet" ] || ln -s /bin/busybox "$root/busybox/$applet"
  done
  pack busybox "$root/busybox" '{"Cmd": ["sh"]}' busybox:1 busybox:latest

  # Upon busybox, so that a test can look around in a sidecar.
  cp "$FLUID_FUSE" "$root/busybox/usr/bin/$sidecar"
  pack fluid-fuse "$root/busybox" "{\"Entrypoint\": [\"$sidecar\"]}" "fluid-fuse:$(version)" fluid-fuse:latest

  # As it is released: the program alone. Its Dataset is that of the golden case thin-fluid-fuse-by-entrypoint.
  mkdir -p "$root"/bare/{usr/bin,tmp,srv/hub/images,srv/hub/labels}
  echo hello >"$root/bare/srv/hub/images/hello.txt"
  # A way out of the data, for whoever follows it.
  ln -s /etc "$root/bare/srv/hub/images/out"
  cp "$FLUID_FUSE" "$root/bare/usr/bin/"
  pack bare "$root/bare" "{\"Entrypoint\": [\"$sidecar\"], \"Cmd\": [\"mount\"]}" fluid-fuse:scratch

  # In the place of the clients of Fluid's Runtimes, by the names of programs that their DaemonSets have: it mounts a
  # file system with a file hello.txt where it is told to, and takes it away at the end.
  cat >"$root/busybox/stub" <<'EOF'
#!/bin/sh
# The mount point is an argument or, of jindo's client, a variable.
for mount_point in "$@" $(env | sed -n 's/^[A-Z_]*MOUNTPOINT=//p'); do
  case $mount_point in */*-fuse) break ;; esac
done
# Of a CacheRuntime kubelet makes the directory, as the DaemonSet's volume is the mount point itself.
case $mount_point in */cache-fuse) ;; *) mkdir -p "$mount_point" ;; esac
mount -t tmpfs client "$mount_point" && echo hello >"$mount_point/hello.txt"
trap 'umount "$mount_point"; exit 0' TERM
while :; do sleep 0.1; done
EOF
  chmod +x "$root/busybox/stub"
  cp "$root/busybox/stub" "$root/busybox/entrypoint.sh"
  pack client "$root/busybox" '{"Cmd": ["sh"]}' runtime-client:1
  echo "$stamp" >"$images/stamp"
}

version() { "$FLUID_FUSE" --version | cut -d ' ' -f 2; }

import() {
  local attempt
  for attempt in {1..100}; do
    ! ctr --address "$1" version >/dev/null 2>&1 || break
    [ "$attempt" -lt 100 ] || die "no containerd answers at $1"
    sleep 0.1
  done
  for image in "$images"/*.tar; do
    ctr --address "$1" --namespace k8s.io image import "$image"
  done
}

case ${1:-} in
build) build ;;
import) import "$2" ;;
--version) version ;;
*) die "usage: images.sh build | import SOCKET | --version" ;;
esac
