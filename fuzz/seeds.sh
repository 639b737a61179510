#!/usr/bin/env bash
# Makes the inputs that fuzzing starts from, of the golden cases for the policy, of seeds/ for the sidecar: seeds.sh DIRECTORY
set -euo pipefail
cd "$(dirname "$0")/.."
directory=$1
mkdir -p "$directory/validate" "$directory/settings"
cp -r fuzz/seeds/. "$directory"
. scripts/golden.sh
for case in $(golden_cases); do
  name=${case#tests/cases/}
  name=${name//\//-}
  settings='{}'
  if file=$(golden_file "$case" settings.yaml); then
    settings=$(yq . "$file")
    jq -nc --argjson settings "$settings" '$settings' >"$directory/settings/$name"
  fi
  yq . "$(golden_file "$case" pod.yaml)" | jq -c --argjson settings "$settings" '
    {settings: $settings, request: (if .kind == "AdmissionReview" then .request else
      {operation: "CREATE", kind: {kind: "Pod"}, namespace: (.metadata.namespace // "default"), object: .} end)}
    ' >"$directory/validate/$name"
done
