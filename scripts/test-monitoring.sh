#!/usr/bin/env bash
# deploy/monitoring with a real Prometheus and a real sidecar:
#   - promtool checks the rules, and when they fire (tests/monitoring/rules.yaml);
#   - Prometheus scrapes a sidecar that reads from an object store, by the relabelings of the PodMonitor;
#   - Prometheus evaluates each rule and each query of the dashboard, and each metric that they name exists: in what the
#     sidecar serves, or in tests/monitoring/metrics.yaml, which says what others serve;
#   - each alert links to a heading that is there.
# FLUID_FUSE and S3_STORE name other programs than those of `make tools` and of the tests.
set -euo pipefail
cd "$(dirname "$0")/.."

skip() {
  echo "skipped: $1, so deploy/monitoring was not tested"
  exit 0
}

python=$(for it in python3 /usr/bin/python3; do "$it" -c 'import yaml' 2>/dev/null && echo "$it" && break; done) ||
  skip "Debian's python3-yaml is not installed"
if ! command -v prometheus >/dev/null || ! command -v promtool >/dev/null; then skip "Prometheus is not installed"; fi
if [ "$(id -u)" -ne 0 ] || [ ! -e /dev/fuse ]; then skip "a mount needs root and /dev/fuse"; fi
fluid_fuse=${FLUID_FUSE:-$(echo target/*/debug/fluid-fuse)}
s3_store=${S3_STORE:-target/debug/examples/s3-store}
if [ ! -x "$fluid_fuse" ] || [ ! -x "$s3_store" ]; then skip "$fluid_fuse or $s3_store is not built"; fi

work=$(mktemp -d)
started=()
finish() {
  for process in "${started[@]}"; do kill "$process" 2>/dev/null || true; done
  for process in "${started[@]}"; do wait "$process" 2>/dev/null || true; done
  ! mountpoint --quiet "$work/data" || umount --lazy "$work/data"
  rm -rf "$work"
}
trap finish EXIT

free_port() { "$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
# As in the PodMonitor. Another process may have it on this machine.
port=9400
prometheus_port=$(free_port)
store_port=$(free_port)

mkdir -p "$work/store/bucket" "$work/data"
head -c 3000000 /dev/urandom >"$work/store/bucket/file"
"$s3_store" "$work/store" "127.0.0.1:$store_port" >"$work/store.log" 2>&1 &
started+=($!)
# No other address of this machine has it, so that tests beside this one keep theirs.
address=127.94.0.1
AWS_ACCESS_KEY_ID=access-key AWS_SECRET_ACCESS_KEY=secret-that-nobody-sees "$fluid_fuse" mount --source s3://bucket --mountpoint "$work/data" \
  --option "endpoint=http://127.0.0.1:$store_port" --option region=us-east-1 --metrics "$address:$port" >"$work/fluid-fuse.log" 2>&1 &
started+=($!)
"$fluid_fuse" wait --mountpoint "$work/data" --timeout 30s || { cat "$work/fluid-fuse.log" >&2; exit 1; }

"$python" scripts/monitoring.py prepare "$work" "$address"
prometheus --config.file="$work/prometheus.yaml" --storage.tsdb.path="$work/tsdb" --log.level=warn \
  --web.listen-address="127.0.0.1:$prometheus_port" >"$work/prometheus.log" 2>&1 &
started+=($!)
# Between two scrapes, so that rates are there.
for _ in 1 2 3; do
  sleep 1
  cat "$work/data/file" >/dev/null
  echo 3 >/proc/sys/vm/drop_caches 2>/dev/null || true
done
"$python" scripts/monitoring.py check "$work" "http://127.0.0.1:$prometheus_port" || { tail -n 5 "$work"/*.log >&2; exit 1; }
