#!/usr/bin/env bash
# Makes the inputs that fuzzing starts from of the golden cases: seeds.sh DIRECTORY
set -euo pipefail
cd "$(dirname "$0")/.."
directory=$1
mkdir -p "$directory/validate" "$directory/settings"
for case in tests/cases/*; do
  name=$(basename "$case")
  settings='{}'
  if [ -e "$case/settings.yaml" ]; then
    settings=$(yq . "$case/settings.yaml")
    jq -nc --argjson settings "$settings" '$settings' >"$directory/settings/$name"
  fi
  yq . "$case/pod.yaml" | jq -c --argjson settings "$settings" '
    {settings: $settings, request: (if .kind == "AdmissionReview" then .request else
      {operation: "CREATE", kind: {kind: "Pod"}, namespace: (.metadata.namespace // "default"), object: .} end)}
    ' >"$directory/validate/$name"
done
