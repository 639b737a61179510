#!/usr/bin/env bash
# Sees that there is a Python environment in a directory with these packages, by pip's requirements: at once when it is
# there, from nothing when others are asked for. Fails, with the reason on stderr, where it cannot be had.
set -euo pipefail
venv=$1
shift
[ "$(cat "$venv/requirements" 2>/dev/null)" = "$*" ] && exit
rm -rf "$venv"
mkdir -p "$(dirname "$venv")"
# Its reason goes to stdout otherwise.
python3 -m venv "$venv" >&2
timeout 300 "$venv/bin/pip" install --quiet --retries 2 --disable-pip-version-check "$@"
echo "$*" >"$venv/requirements"
