#!/usr/bin/env bash
# Tries everything in a cluster (`make e2e-cluster`): starts it, the object store and the policy behind a webhook,
# runs *.bats, and ends it all. KEEP_CLUSTER=1 leaves it running, to look around.
#
#   test.sh [BATS OPTIONS, such as --filter 'a Job']
set -euo pipefail
# shellcheck source=e2e/cluster/common.sh
source "$(dirname "$0")/common.sh"
cd "$project"

[ -z "$(processes)" ] || die "there is a cluster at $run, and the scenarios want one of their own: make cluster-down"
status=0
"$here/up.sh" || status=$?
[ $status -ne "$cannot" ] || {
  echo "skipped: no cluster can run here; the lines above say what is missing"
  exit 0
}

end() {
  local status=$?
  if [ $status -ne 0 ] && [ -d "$run/log" ]; then
    echo "-- the last lines of the logs in $run/log"
    tail -n 15 "$run"/log/*.log
  fi
  [ -n "${KEEP_CLUSTER:-}" ] || "$here/down.sh"
  exit $status
}
trap end EXIT
[ $status -eq 0 ] || exit $status

# Buckets of files that can be checked.
data=$run/buckets
mkdir -p "$data/data/deep" "$data/labels"
(
  cd "$data/data"
  head -c 10000000 /dev/urandom >big.bin
  echo hello >hello.txt
  echo below >deep/file
  # Takes no room on the disk; more than a sidecar has memory.
  truncate -s 256M huge.bin
  sha256sum big.bin hello.txt deep/file >SUMS
  cd ../labels
  echo cat >1.txt
  sha256sum 1.txt >SUMS
)
export STORE=http://$gateway:9000 IMAGE
IMAGE=fluid-fuse:$("$here/images.sh" --version)
start s3-store "${S3_STORE:-$project/target/debug/examples/s3-store}" "$data" "${STORE#http://}"

# Making the faults that `doctor` diagnoses wants a machine without other work: `make e2e-cluster` has DOCTOR=1.
[ -n "${DOCTOR:-}" ] || echo "skipped: doctor.bats, which \`make e2e-cluster\` runs"
files=()
for file in "$here"/*.bats; do
  [[ $file == */doctor.bats && -z ${DOCTOR:-} ]] || files+=("$file")
done
bats --timing "$@" "${files[@]}"
