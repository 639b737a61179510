#!/usr/bin/env bash
# Builds the programs of the cluster from the Go modules that go/go.mod names, unless the cache has them.
set -euo pipefail
# shellcheck source=e2e/cluster/common.sh
source "$(dirname "$0")/common.sh"
cd "$here/go"
# sudo's PATH lacks the folder where Go's own archive puts it.
export PATH=$PATH:/usr/local/go/bin
# Nothing of the user's settings changes what is built.
export GOFLAGS='' GOWORK=off CGO_ENABLED=0
# Without VCS's revision, which git does not tell root of another user's tree, and without what only debuggers read.
flags=(-trimpath -buildvcs=false -gcflags=all=-dwarf=false) linker_flags='-s -w'

# A Go that is too old for go.mod fetches a newer one, or says here that it cannot.
complaint=$(go list -m 2>&1) || {
  say "missing: $(sed -n 's/^go /Go /p' go.mod) or newer, see https://go.dev/dl ($(tail -1 <<<"$complaint"))" >&2
  exit "$cannot"
}
stamp=$({ go version; echo "${flags[*]} $linker_flags"; cat go.mod go.sum ./*/*.go; } | sha256sum)
[ "$(cat "$cache/bin/.stamp" 2>/dev/null)" != "$stamp" ] || exit 0
"$project/scripts/need.sh" cluster || exit "$cannot"

begun=$SECONDS
say "fetching the sources"
CGO_ENABLED=1 go list -tags seccomp -deps ./... tool >/dev/null || {
  say "cannot fetch the modules of $PWD/go.mod from GOPROXY=$(go env GOPROXY)" >&2
  exit "$cannot"
}
version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
IFS=. read -r major minor _ <<<"${version#v}"
variables=k8s.io/component-base/version
mapfile -t tools < <(go list tool)
mapfile -t without_cgo < <(printf '%s\n' "${tools[@]}" | grep -v '/runc$')

say "building Kubernetes $version, etcd, containerd and runc (some seven minutes on two processors)"
rm -rf "${cache:?}/bin"
mkdir -p "$cache/bin"
# In one go, so that no processor waits while another one links.
go build "${flags[@]}" -o "$cache/bin/" -ldflags "$linker_flags -X $variables.gitVersion=$version \
  -X $variables.gitMajor=$major -X $variables.gitMinor=$minor" ./... "${without_cgo[@]}"
# Go names it after its folder.
mv "$cache/bin/server" "$cache/bin/etcd"
CGO_ENABLED=1 go build "${flags[@]}" -tags seccomp -o "$cache/bin/" -ldflags "$linker_flags" github.com/opencontainers/runc
echo "$stamp" >"$cache/bin/.stamp"
say "built in $((SECONDS - begun)) s"
