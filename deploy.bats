#!/usr/bin/env bats
# deploy/: its single files are what its overlays make, and both can be pinned, combined and changed as its README says.

bats_require_minimum_version 1.5.0

setup() {
  # As scripts/deploy.py looks for it.
  if command -v kubectl >/dev/null; then
    kustomize=(kubectl kustomize)
  elif command -v kustomize >/dev/null; then
    kustomize=(kustomize build)
  elif [ -x e2e/cluster/.cache/bin/kubectl ]; then
    kustomize=("$PWD/e2e/cluster/.cache/bin/kubectl" kustomize)
  else
    skip "neither kubectl nor kustomize is installed"
  fi
  python3 -c 'import yaml' 2>/dev/null || skip "Debian's python3-yaml is not installed"
  command -v yq >/dev/null || skip "yq is not installed"
}

digest() { printf 'sha256:%064d' "$1"; }

# The strings of all manifests below a directory that name an artifact of this project.
artifacts() { grep -rhoE "(registry://|ghcr\.io/)[^'\" ]*fluid-[a-z-]+:[^'\" ]+|imageTag: .*" "$1" --include='*.yaml'; }

@test "the single files are what the overlays make" {
  scripts/deploy.py --check
}

@test "a single file that was changed by hand is noticed, with the difference" {
  cp -r deploy "$BATS_TEST_TMPDIR"
  sed -i 's/  timeoutSeconds: 5/  timeoutSeconds: 6/' "$BATS_TEST_TMPDIR/deploy/ask.yaml"
  run ! scripts/deploy.py --check "$BATS_TEST_TMPDIR/deploy"
  [[ $output == *"-  timeoutSeconds: 6"* && $output == *"+  timeoutSeconds: 5"* && $output == *"make deploy"* ]]
  [[ $output != *"eci.yaml"* ]]
}

@test "a comment above a changed field survives, and the patch's takes the place of the base's" {
  cp -r deploy "$BATS_TEST_TMPDIR"
  printf '  # Longer, for a slow network.\n  timeoutSeconds: 9\n' >>"$BATS_TEST_TMPDIR/deploy/overlays/ask/policy.yaml"
  scripts/deploy.py "$BATS_TEST_TMPDIR/deploy"
  run -0 cat "$BATS_TEST_TMPDIR/deploy/ask.yaml"
  [[ $output == *$'  # Longer, for a slow network.\n  timeoutSeconds: 9\n  timeoutEvalSeconds: 4'* ]]
  [[ $output != *"waits for the sum of their timeouts"* && $output == *"must start while no policy server answers"* ]]
}

@test "a release's manifests have digests, in the overlays and in the single files" {
  scripts/pin-deploy.sh "ghcr.io/x/policy@$(digest 1)" "ghcr.io/x/fluid-fuse@$(digest 2)" "$BATS_TEST_TMPDIR/pinned"
  run -0 artifacts "$BATS_TEST_TMPDIR/pinned"
  # One for each file and overlay that names one; not one without its digest.
  [ "${#lines[@]}" -ge 10 ]
  for name in "${lines[@]}"; do
    case $name in
      *fluid-sidecar-policy:*) [[ $name == *@"$(digest 1)" ]] ;;
      *fluid-fuse:* | imageTag:\ v*) [[ $name == *@"$(digest 2)" ]] ;;
      imageTag:\ artifacts) ;;
      *) false ;;
    esac
  done
  "${kustomize[@]}" "$BATS_TEST_TMPDIR/pinned/overlays/eci" | yq -e --arg is "$(digest 1)" '.spec.module | endswith("@" + $is)'
  scripts/deploy.py --check "$BATS_TEST_TMPDIR/pinned"
}

@test "one kustomization can combine overlays and change their settings" {
  cp -r deploy "$BATS_TEST_TMPDIR"
  sed -n '/^```yaml kustomization$/,/^```$/p' deploy/README.md | sed '1d;$d' >"$BATS_TEST_TMPDIR/kustomization.yaml"
  run -0 --separate-stderr "${kustomize[@]}" "$BATS_TEST_TMPDIR"
  objects=$(yq -s -c '[.[] | {kind, name: .metadata.name}]' <<<"$output")
  [ "$(jq -c '[.[].kind]' <<<"$objects")" = \
    '["ServiceAccount","ClusterRole","ClusterRoleBinding","ClusterAdmissionPolicy","PolicyServer"]' ]
  yq -es '.[] | select(.kind == "ClusterAdmissionPolicy") | .spec.settings | .sidecarFrom == "fluid-fuse" and .namespaceLabels == "read"' <<<"$output"
  yq -es '.[] | select(.kind == "PolicyServer") | .spec.image | startswith("registry.example/")' <<<"$output"
}

@test "the manifests of monitoring can be applied, with the dashboard" {
  run -0 --separate-stderr "${kustomize[@]}" deploy/monitoring
  [ "$(yq -s -c '[.[].kind] | sort' <<<"$output")" = '["ConfigMap","PodMonitor","PrometheusRule"]' ]
  yq -es '.[] | select(.kind == "ConfigMap") | .data["dashboard.json"] | fromjson | .panels | length > 10' <<<"$output"
}
