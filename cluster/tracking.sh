#!/usr/bin/env bash
# On the head: one MLflow server with a login, for this cluster; nothing to do where it runs already.
# RAYBD_DATABASE: where it keeps runs (postgresql+psycopg2://...); unset: a file of its own.
# RAYBD_ARTIFACTS: where pictures and tables of trials go (s3://..., gs://...); unset: a folder beside that file.
set -euo pipefail
# shellcheck source=cluster/env.sh
. "$(dirname "$0")/env.sh"
umask 077
port=${RAYBD_TRACKING_PORT:-5000}
state="$HOME/.raybd/mlflow"
mkdir -p "$state"

# The address that Ray itself gives this node: bound to it alone, the server is heard on the cluster's network only.
host=$(python -c 'from ray.util import get_node_ip_address as own; print(own())')
if python -c 'import ipaddress, sys; sys.exit(not ipaddress.ip_address(sys.argv[1]).is_global)' "$host"; then
  echo "$host is a public address: passwords would cross the internet in the clear; join the nodes by a private network" >&2
  exit 1
fi
healthy() {
  python -c 'import sys, urllib.request as u; u.urlopen(sys.argv[1], timeout=2)' "http://$host:$port/health" 2>/dev/null
}
ours() { # a call of the API without login is refused, and with ours is not
  python - "http://$host:$port" "$HOME/.raybd/secrets/mlflow_password" <<'END'
import base64, pathlib, sys, urllib.error, urllib.request

server, password = sys.argv[1], pathlib.Path(sys.argv[2]).read_text()
call = server + "/api/2.0/mlflow/experiments/search?max_results=1"
login = "Basic " + base64.b64encode(f"admin:{password}".encode()).decode()
seen = []
for headers in ({}, {"Authorization": login}):
    try:
        seen.append(urllib.request.urlopen(urllib.request.Request(call, headers=headers), timeout=20).status)
    except urllib.error.HTTPError as error:
        seen.append(error.code)
    if seen == [200]:
        break  # it asks nobody: it shall not hear our password either
sys.exit(seen != [401, 200])
END
}

if ! healthy; then
  # The login reads its first password from the environment, and keeps a hash of it in basic_auth.db of this folder.
  (
    cd "$state"
    MLFLOW_AUTH_ADMIN_USERNAME=admin MLFLOW_AUTH_ADMIN_PASSWORD=$(cat "$HOME/.raybd/secrets/mlflow_password")
    MLFLOW_FLASK_SERVER_SECRET_KEY=$(cat "$HOME/.raybd/secrets/mlflow_session_key")
    export MLFLOW_AUTH_ADMIN_USERNAME MLFLOW_AUTH_ADMIN_PASSWORD MLFLOW_FLASK_SERVER_SECRET_KEY
    unset MLFLOW_TRACKING_URI OMP_NUM_THREADS PYTHONWARNINGS
    export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
    export MLFLOW_BACKEND_STORE_URI="${RAYBD_DATABASE:-sqlite:///$state/mlflow.db}" # no password on a command line
    setsid nohup mlflow server --app-name basic-auth --host "$host" --port "$port" --workers 1 \
      --allowed-hosts "$host:$port,localhost:$port,127.0.0.1:$port" \
      --artifacts-destination "${RAYBD_ARTIFACTS:-$state/artifacts}" \
      >"$state/server.log" 2>&1 </dev/null &
  )
  for _ in $(seq 120); do
    if healthy; then break; fi
    sleep 1
  done
  healthy || { tail "$state/server.log" >&2; echo "the MLflow server did not come up" >&2; exit 1; }
fi
if ! ours; then
  echo "what answers on http://$host:$port is no MLflow server with this cluster's login: end it, or set RAYBD_TRACKING_PORT" >&2
  exit 1
fi
echo "http://$host:$port" >"$HOME/.raybd/tracking_uri"
echo "MLflow: http://$host:$port"
