#!/usr/bin/env bash
# On every node, before Ray starts: this checkout, editable, with the pinned packages, in ~/.raybd/venv.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
venv="$HOME/.raybd/venv"

if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "python3 of $(hostname) is older than 3.11: install a newer one, the same on every node" >&2
  exit 1
fi
mkdir -p "$HOME/.raybd"
chmod 700 "$HOME/.raybd"
[ ! -d "$HOME/.raybd/secrets" ] || chmod -R go-rwx "$HOME/.raybd/secrets"
[ -x "$venv/bin/pip" ] || python3 -m venv "$venv"
# compat: the checkout itself goes onto Python's path. Otherwise any folder ~/analysis or ~/raybd would hide the package of
# that name from `ray submit`, which puts its script into the home folder.
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --config-settings editable_mode=compat \
  -c "$root/constraints.txt" -e "$root[cluster]"
line=". '$root/cluster/env.sh'"
grep -qsxF "$line" "$HOME/.bashrc" || echo "$line" >>"$HOME/.bashrc"
