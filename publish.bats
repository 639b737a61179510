#!/usr/bin/env bats
# What is published: the annotated policy and the sidecar's image, pushed to a real registry on loopback, pulled back
# and compared byte for byte; the image run in a container, and in the demo's Pod.

bats_require_minimum_version 1.5.0

setup_file() {
  cd "$BATS_TEST_DIRNAME"
  export ARTIFACTS=${ARTIFACTS:-target/debug/artifacts} TOOL=${TOOL:-target/debug/kubectl-fluid_sidecar}
  export PODRUN=${PODRUN:-target/debug/podrun} POLICY=${POLICY:-target/policy.wasm}
  export METADATA=${METADATA:-policy-metadata.yml}
  export FLUID_FUSE=${FLUID_FUSE:-$(echo target/*/debug/fluid-fuse)}
  [ -x "$ARTIFACTS" ] || { echo "build first: make wasm tools" >&2; return 1; }
  scripts/need.sh publish-tests >&2 ||
    skip "packages are missing"

  export ANNOTATED_POLICY=$BATS_FILE_TMPDIR/annotated-policy.wasm
  export POLICY_LAYOUT=$BATS_FILE_TMPDIR/policy IMAGE_LAYOUT=$BATS_FILE_TMPDIR/image
  "$ARTIFACTS" annotate "$POLICY" --metadata "$METADATA" --usage README.md --output "$ANNOTATED_POLICY"
  "$ARTIFACTS" policy "$ANNOTATED_POLICY" --output "$POLICY_LAYOUT"
  image "$IMAGE_LAYOUT"
  start_registry OPEN
  # Of the user "ci" with the password "secret".
  printf 'ci:%s\n' "$(perl -e 'print crypt("secret", q($2b$05$artifactsartifactsarta))')" >"$BATS_FILE_TMPDIR/htpasswd"
  start_registry CLOSED "auth: {htpasswd: {realm: test, path: $BATS_FILE_TMPDIR/htpasswd}}"
}

teardown_file() {
  local pid
  for pid in ${OPEN_PID:-} ${CLOSED_PID:-}; do kill "$pid"; done
}

setup() { cd "$BATS_TEST_DIRNAME"; }

# image DIR: the sidecar's image, made at a time of its own.
image() { SOURCE_DATE_EPOCH=${CREATED:-1700000000} "$ARTIFACTS" image "$FLUID_FUSE" --revision abc --output "$1"; }

# start_registry NAME [CONFIGURATION]: a registry on a free port; exports NAME (host and port) and NAME_PID.
start_registry() {
  local dir=$BATS_FILE_TMPDIR/$1 port=0 answer
  mkdir "$dir"
  for port in $(shuf -i 20000-29999 -n 5); do
    cat >"$dir/config.yml" <<YAML
version: 0.1
log: {level: warn}
storage: {filesystem: {rootdirectory: $dir/data}}
http: {addr: "127.0.0.1:$port"}
${2:-}
YAML
    docker-registry serve "$dir/config.yml" >"$dir/log" 2>&1 3>&- </dev/null &
    export "$1_PID=$!" "$1=127.0.0.1:$port"
    for _ in $(seq 100); do
      # 401 is an answer, too. A port that was taken answers otherwise, or its registry has ended.
      answer=$(python3 -c 'import sys, urllib.request as r, urllib.error as e
try: print(r.urlopen(sys.argv[1]).headers["Docker-Distribution-Api-Version"])
except e.HTTPError as error: print(error.headers["Docker-Distribution-Api-Version"])
except OSError: pass' "http://127.0.0.1:$port/v2/") || true
      kill -0 "$!" 2>/dev/null || break
      [ "$answer" != registry/2.0 ] || return 0
      sleep 0.1
    done
    kill "$!" 2>/dev/null || true
  done
  cat "$dir/log" >&2
  return 1
}

# publish WHAT REGISTRY: without kwctl, whose own test is below; its configuration would be another home's, too.
publish() {
  local PATH=$BATS_TEST_TMPDIR/path:$PATH HOME=${HOME_OF:-$BATS_TEST_TMPDIR} kwctl
  while kwctl=$(command -v kwctl); do PATH=${PATH//"$(dirname "$kwctl")":/}; done
  HOME=$HOME XDG_RUNTIME_DIR=$BATS_TEST_TMPDIR scripts/publish.sh "$@"
}

blob() { echo "$1/blobs/${2/://}"; }

@test "the annotated policy decides as the policy does, with its metadata in it" {
  for output in patch response; do
    diff <("$TOOL" explain demo/pod.yaml --policy "$POLICY" --objects demo/cluster --output $output) \
      <("$TOOL" explain demo/pod.yaml --policy "$ANNOTATED_POLICY" --objects demo/cluster --output $output)
  done
  cmp -n "$(stat -c %s "$POLICY")" "$POLICY" "$ANNOTATED_POLICY"
  run "$ARTIFACTS" annotate "$ANNOTATED_POLICY" --metadata "$METADATA" --output "$BATS_TEST_TMPDIR/twice"
  [ "$status" -eq 1 ]
  [[ "$output" == *"has metadata already"* ]]
}

@test "the policy comes back from a registry byte for byte, as kwctl would have pushed it" {
  reference=$(publish policy "$OPEN/org")
  [[ "$reference" == "$OPEN/org/fluid-sidecar-policy@sha256:"* ]]
  version=$(yq -r '.annotations["io.kubewarden.policy.version"]' "$METADATA")
  for name in "$reference" "${reference%@*}:v$version"; do
    rm -rf "$BATS_TEST_TMPDIR/back"
    skopeo copy --quiet --preserve-digests --src-tls-verify=false "docker://$name" "oci:$BATS_TEST_TMPDIR/back"
    manifest=$(blob "$BATS_TEST_TMPDIR/back" "${reference#*@}")
    cmp "$ANNOTATED_POLICY" "$(blob "$BATS_TEST_TMPDIR/back" "$(jq -r '.layers[0].digest' "$manifest")")"
  done
  skopeo inspect --raw --tls-verify=false "docker://$reference" | cmp - "$manifest"
  yq '.annotations' "$METADATA" >"$BATS_TEST_TMPDIR/annotations"
  jq -e --slurpfile annotations "$BATS_TEST_TMPDIR/annotations" '
    keys == ["annotations", "config", "layers", "schemaVersion"] and .schemaVersion == 2
    and .config == {
      mediaType: "application/vnd.wasm.config.v1+json", size: 2,
      digest: "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"}
    and (.layers | length) == 1 and .layers[0].mediaType == "application/vnd.wasm.content.layer.v1+wasm"
    and .annotations == ($annotations[0]
      | with_entries(.value |= sub("\\s+$"; "") | select(.value | contains("\n") | not))
      | .["org.opencontainers.image.source"] //= .["io.kubewarden.policy.source"])' "$manifest"
  # What kwctl writes has its keys in order and no spaces; its digest depends on it.
  jq -cjS . "$manifest" | cmp - "$manifest"
}

@test "the annotated policy is the same where kwctl is installed and where it is not" {
  run -0 make --dry-run annotated-policy.wasm
  [[ "$output" == *"annotate --usage README.md"* ]]
  [[ "$output" != *kwctl* ]]
}

@test "the usage text has the README's words, but not its comments" {
  grep -aq 'io.kubewarden.policy.usage' "$ANNOTATED_POLICY"
  run ! grep -aq '<!--' "$ANNOTATED_POLICY"
}

@test "kwctl reads our metadata, and pushes the same manifest" {
  command -v kwctl >/dev/null || skip "kwctl is not installed"
  kwctl inspect --output yaml "$ANNOTATED_POLICY"
  ours=$(publish policy "$OPEN/ours")
  theirs=$(scripts/publish.sh policy "$OPEN/theirs")
  [ "${ours#*@}" = "${theirs#*@}" ]
}

@test "the same inputs give the same image" {
  image "$BATS_TEST_TMPDIR/again"
  diff -r "$IMAGE_LAYOUT" "$BATS_TEST_TMPDIR/again"
  CREATED=1700000001 image "$BATS_TEST_TMPDIR/later"
  run ! diff -q "$IMAGE_LAYOUT/index.json" "$BATS_TEST_TMPDIR/later/index.json"
}

@test "the image of a released program is small" {
  [[ $FLUID_FUSE == */release/* ]] || skip "the program is for debugging: make sidecar, and FLUID_FUSE=target/…/release/fluid-fuse"
  skopeo inspect --raw "oci:$IMAGE_LAYOUT" >"$BATS_TEST_TMPDIR/index"
  for manifest in $(jq -r '.manifests[].digest' "$BATS_TEST_TMPDIR/index"); do
    layer=$(blob "$IMAGE_LAYOUT" "$(jq -r '.layers[0].digest' "$(blob "$IMAGE_LAYOUT" "$manifest")")")
    [ "$(gzip -dc "$layer" | wc -c)" -le $((25 * 1024 * 1024)) ]
  done
}

@test "an image is made of static programs only, one for each architecture" {
  run "$ARTIFACTS" image "$TOOL" --output "$BATS_TEST_TMPDIR/image"
  [ "$status" -eq 1 ]
  [[ "$output" == *"needs a dynamic loader"* ]]
  run "$ARTIFACTS" image "$FLUID_FUSE" "$FLUID_FUSE" --output "$BATS_TEST_TMPDIR/image"
  [ "$status" -eq 1 ]
  [[ "$output" == *"already"* ]]
  [ ! -e "$BATS_TEST_TMPDIR/image" ]
}

@test "the image comes back from a registry byte for byte, with what is said of it" {
  reference=$(publish image "$OPEN/org" v9)
  skopeo copy --all --quiet --preserve-digests --src-tls-verify=false "docker://${reference%@*}:v9" \
    "oci:$BATS_TEST_TMPDIR/back:$(jq -r '.manifests[0].annotations[]' "$IMAGE_LAYOUT/index.json")"
  diff -r "$IMAGE_LAYOUT/blobs" "$BATS_TEST_TMPDIR/back/blobs"
  [ "${reference#*@}" = "$(jq -r '.manifests[0].digest' "$IMAGE_LAYOUT/index.json")" ]
  skopeo inspect --tls-verify=false "docker://$reference" | jq -e '
    .Os == "linux" and .Created == "2023-11-14T22:13:20Z"
    and .Labels["org.opencontainers.image.revision"] == "abc"
    and .Labels["org.opencontainers.image.licenses"] == "Apache-2.0"'
}

@test "a registry's credentials are those of docker login" {
  run ! publish policy "$CLOSED/org"
  mkdir "$BATS_TEST_TMPDIR/.docker"
  jq -n --arg host "$CLOSED" '{auths: {($host): {auth: ("ci:secret" | @base64)}}}' >"$BATS_TEST_TMPDIR/.docker/config.json"
  publish policy "$CLOSED/org"
}

@test "what cannot be published says why" {
  run scripts/publish.sh policy
  [ "$status" -eq 2 ]
  [[ "$output" == *"REGISTRY must be"* ]]
  run scripts/publish.sh policy https://example.com
  [ "$status" -eq 2 ]
  POLICY_LAYOUT=$BATS_TEST_TMPDIR/none run scripts/publish.sh policy "$OPEN"
  [ "$status" -eq 1 ]
  [[ "$output" == *"make annotated-policy.wasm"* ]]
}

# unpack: the image as a bundle for a runtime.
unpack() {
  [ "$(id -u)" -eq 0 ] || skip "containers need root"
  command -v runc >/dev/null || skip "runc is not installed"
  umoci unpack --image "$IMAGE_LAYOUT:$(jq -r '.manifests[0].annotations[]' "$IMAGE_LAYOUT/index.json")" \
    "$BATS_TEST_TMPDIR/bundle"
  # Of the host's cgroups umoci knows nothing.
  jq '.process.terminal = false | .mounts |= map(select(.type != "cgroup")) | del(.linux.resources)' \
    "$BATS_TEST_TMPDIR/bundle/config.json" >"$BATS_TEST_TMPDIR/config"
}

# container ARGUMENT… : runs the image's entry point with them, in the host's network.
container() {
  printf '%s\n' "$@" | jq -R . | jq -s --slurpfile config "$BATS_TEST_TMPDIR/config" '. as $arguments | $config[0]
    | .process.args = [.process.args[0], $arguments[]] | .linux.namespaces |= map(select(.type != "network"))' \
    >"$BATS_TEST_TMPDIR/bundle/config.json"
  timeout 60 runc run --bundle "$BATS_TEST_TMPDIR/bundle" "artifacts-$$-$RANDOM" </dev/null
}

@test "krew's manifest has the version and the checksum of each archive" {
  archives=$BATS_TEST_TMPDIR/archives
  mkdir "$archives"
  for platform in linux-amd64 linux-arm64 darwin-amd64 darwin-arm64; do
    echo "$platform" >"$archives/kubectl-fluid_sidecar-$platform.tar.gz"
  done
  REPOSITORY=org/repo scripts/krew.sh v1.2.3 "$archives" >"$BATS_TEST_TMPDIR/krew.yaml"
  yq . "$BATS_TEST_TMPDIR/krew.yaml" | jq -e '.metadata.name == "fluid-sidecar" and .spec.version == "v1.2.3"
    and (.spec.shortDescription | length) < 50 and (.spec.platforms | length) == 4'
  # Krew unpacks an archive and looks for `bin` in it.
  while read -r uri sum; do
    [ "$(dirname "$uri")" = https://github.com/org/repo/releases/download/v1.2.3 ]
    echo "$sum  $archives/$(basename "$uri")" | sha256sum --check --quiet
  done < <(yq . "$BATS_TEST_TMPDIR/krew.yaml" | jq -r '.spec.platforms[] | "\(.uri) \(.sha256)"')
  yq . "$BATS_TEST_TMPDIR/krew.yaml" | jq -r '.spec.platforms[] | .selector.matchLabels | "\(.os)-\(.arch)"' | sort |
    diff - <(cd "$archives" && printf '%s\n' * | sed 's/kubectl-fluid_sidecar-\(.*\)\.tar\.gz/\1/')
  rm "$archives/kubectl-fluid_sidecar-darwin-arm64.tar.gz"
  run scripts/krew.sh v1.2.3 "$archives"
  [ "$status" -ne 0 ]
  run scripts/krew.sh latest "$archives"
  [ "$status" -eq 2 ]
}

@test "the image runs in a container, without anything else in it" {
  unpack
  jq -e '.process.args == ["fluid-fuse", "mount"]' "$BATS_TEST_TMPDIR/config"
  [ "$(container --version)" = "$("$FLUID_FUSE" --version)" ]
  run container wait --mountpoint /mnt --timeout 1s
  [ "$status" -eq 1 ]
}

@test "the program finds names in the image" {
  unpack
  # A static program looks names up without the libraries that the system has for it.
  echo "127.0.0.1 store.test" >"$BATS_TEST_TMPDIR/bundle/rootfs/etc/hosts"
  echo '<a href="hello.txt">hello.txt</a>' >"$BATS_TEST_TMPDIR/index.html"
  cp demo/nas/hello/hello.txt "$BATS_TEST_TMPDIR"
  port=$(shuf -i 30000-32000 -n 1)
  busybox httpd -f -p "127.0.0.1:$port" -h "$BATS_TEST_TMPDIR" >/dev/null 2>&1 3>&- </dev/null &
  server=$!
  # It compares the files of a directory with those of the source.
  mkdir -p "$BATS_TEST_TMPDIR/bundle/rootfs/tmp/files"
  cp demo/nas/hello/hello.txt "$BATS_TEST_TMPDIR/bundle/rootfs/tmp/files"
  run container bench --source "http://store.test:$port/" --mountpoint /tmp/files
  kill "$server"
  echo "$output"
  [ "$status" -eq 0 ]
}

@test "the demo's Pod reads its Dataset through the image" {
  unpack
  [ -e /dev/fuse ] || skip "there is no /dev/fuse"
  FLUID_FUSE="$BATS_TEST_TMPDIR/bundle/rootfs" demo/run.sh </dev/null >"$BATS_TEST_TMPDIR/timeline" 2>&1 ||
    { cat "$BATS_TEST_TMPDIR/timeline"; false; }
  grep -q "app .*| $(cat demo/nas/hello/hello.txt)" "$BATS_TEST_TMPDIR/timeline"
}
