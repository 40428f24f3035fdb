#!/usr/bin/env bash
# Once, on the machine that you launch from: make the secrets of your clusters in ~/.raybd/secrets, for you alone to read.
# `ray up` copies the folder to every node. Secrets that are there already stay as they are.
set -euo pipefail
umask 077
folder="$HOME/.raybd/secrets"
mkdir -p "$folder"
chmod 700 "$HOME/.raybd" "$folder"
for name in ray_token mlflow_password mlflow_session_key; do
  [ -s "$folder/$name" ] || python3 -c 'import secrets; print(secrets.token_hex(32), end="")' >"$folder/$name"
  chmod 600 "$folder/$name"
done
echo "secrets are in $folder"
