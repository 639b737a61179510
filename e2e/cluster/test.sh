#!/usr/bin/env bash
# Tries everything in a cluster (`make e2e-cluster`): starts it if there is none, the object store and the policy
# behind a webhook, runs *.bats, and ends what it started. KEEP_CLUSTER=1 leaves it all running, to look around.
#
#   test.sh [BATS OPTIONS, such as --filter 'a Job']
set -euo pipefail
# shellcheck source=e2e/cluster/common.sh
source "$(dirname "$0")/common.sh"
cd "$project"

if [ "$(id -u)" -ne 0 ] || [ ! -e /dev/fuse ]; then
  echo "skipped: a cluster needs root and /dev/fuse"
  exit 0
fi
scripts/need.sh bats curl jq yq

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
"$here/up.sh"

# Buckets of files that can be checked.
data=$run/buckets
mkdir -p "$data/data/deep" "$data/labels"
(
  cd "$data/data"
  head -c 10000000 /dev/urandom >big.bin
  echo hello >hello.txt
  echo below >deep/file
  sha256sum big.bin hello.txt deep/file >SUMS
  cd ../labels
  echo cat >1.txt
  sha256sum 1.txt >SUMS
)
export STORE=http://$gateway:9000 SERVERLESS_NODE=$serverless IMAGE
IMAGE=fluid-fuse:$("$here/images.sh" --version)
start s3-store "${S3_STORE:-$project/target/debug/examples/s3-store}" "$data" "${STORE#http://}"

bats "$@" "$here"
