#!/usr/bin/env bash
# Builds what the cache lacks of Kubernetes, from Debian's source package, and of the device plugin, within its tree.
# An interrupted build goes on where it was.
set -euo pipefail
# shellcheck source=e2e/cluster/common.sh
source "$(dirname "$0")/common.sh"

# The newest that Debian has in source; its binary packages are only the client.
version=1.20.2 source_version=1.20.5+really1.20.2-1.1+deb12u1 suite=bookworm
programs=(kube-apiserver kube-controller-manager kube-scheduler kubelet kubectl)
variables=k8s.io/kubernetes/vendor/k8s.io/component-base/version
# Without Docker's and the clouds' code: it would be half of the build.
flags=("-tags=dockerless,providerless"
  -ldflags "-s -w -X $variables.gitVersion=v$version -X $variables.gitMajor=1 -X $variables.gitMinor=20")

# What a program was built from, beside it; one that is not of these is built anew.
stamps=() missing=()
for program in "${programs[@]}" vfuse-device-plugin; do
  stamp="$source_version reflect2 ${flags[*]}"
  [ "$program" != vfuse-device-plugin ] || stamp+=" $(cat "$here"/device-plugin/*.go | sha256sum)"
  [ "$(cat "$cache/bin/.$program" 2>/dev/null)" = "$stamp" ] || missing+=("$program") stamps+=("$stamp")
done
[ ${#missing[@]} -gt 0 ] || exit 0

"$project/scripts/need.sh" golang-go golang-github-modern-go-reflect2-dev ca-certificates debian-archive-keyring || exit "$cannot"
begun=$SECONDS
tree=$cache/build/go/src/k8s.io/kubernetes
mkdir -p "$cache/bin" "$cache/build/lists/partial"

if [ ! -e "$cache/build/unpacked" ]; then
  say "fetching the source package kubernetes $source_version (35 MB)"
  cd "$cache/build"
  # The machine's own mirror, if it has one; its sources need not have deb-src enabled.
  # shellcheck disable=SC2016 # apt's variable
  mirror=${CLUSTER_MIRROR:-$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Origin: Debian' | sed -n 1p)}
  [ -n "$mirror" ] || {
    say "apt knows no mirror of Debian: CLUSTER_MIRROR=URL names one" >&2
    exit "$cannot"
  }
  echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >sources.list
  apt=(apt-get -q -o "Dir::Etc::sourcelist=$PWD/sources.list" -o Dir::Etc::sourceparts=/dev/null
    -o "Dir::State::Lists=$PWD/lists" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o APT::Sandbox::User=root)
  if ! { "${apt[@]}" update && "${apt[@]}" source --download-only "kubernetes=$source_version"; } >apt.log 2>&1; then
    say "cannot get the source package kubernetes=$source_version by $PWD/sources.list, $(cat sources.list):
$(tail -5 apt.log)" >&2
    exit "$cannot"
  fi
  rm -rf go
  mkdir -p "$tree"
  tar -xzf kubernetes_*.orig.tar.gz --strip-components=1 -C "$tree"
  # The version within walks through maps as Go did before 1.18: the API server would crash at custom resources.
  rm -rf "$tree/vendor/github.com/modern-go/reflect2"
  cp -rL /usr/share/gocode/src/github.com/modern-go/reflect2 "$tree/vendor/github.com/modern-go/"
  touch unpacked
fi

cd "$tree"
# Debian's Go before another: a newer one need not like sources of 2021.
export PATH=/usr/bin:$PATH GOPATH=$cache/build/go GOCACHE=$cache/build/go-cache GO111MODULE=off GOFLAGS='' CGO_ENABLED=0

# The one generated file that the source package lacks.
if [ ! -e pkg/generated/openapi/zz_generated.openapi.go ]; then
  say "generating pkg/generated/openapi"
  go build -o "$cache/build/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen
  staging=k8s.io/kubernetes/vendor/k8s.io
  inputs=$({
    printf '%s\n' "$staging"/apimachinery/pkg/{runtime,version,api/resource,util/intstr}
    # Of upstream's staging folders only what is compiled in.
    grep -rl --include=doc.go '+k8s:openapi-gen=' pkg cmd | xargs -n 1 dirname | sed 's|^|k8s.io/kubernetes/|'
    grep -rl --include=doc.go '+k8s:openapi-gen=' staging/src/k8s.io | xargs -n 1 dirname |
      grep -vE '_examples|/sample-|/code-generator/|testing' | sed 's|^staging/src/|k8s.io/kubernetes/vendor/|'
  } | sort -u | paste -sd,)
  "$cache/build/openapi-gen" -i "$inputs" -O zz_generated.openapi -p k8s.io/kubernetes/pkg/generated/openapi \
    -o "$GOPATH/src" -h hack/boilerplate/boilerplate.generatego.txt -r /dev/null
fi

# A folder within the tree, so that its vendored packages are found.
rm -rf cmd/vfuse-device-plugin
cp -r "$here/device-plugin" cmd/vfuse-device-plugin
for at in "${!missing[@]}"; do
  program=${missing[at]}
  say "building $program ($((at + 1)) of ${#missing[@]})"
  go build "${flags[@]}" -o "$cache/bin/$program" "./cmd/$program"
  printf '%s' "${stamps[at]}" >"$cache/bin/.$program"
done
cd "$cache"
# First what says that the rest is whole.
rm build/unpacked
rm -rf build
say "built Kubernetes $version in $((SECONDS - begun)) s"
