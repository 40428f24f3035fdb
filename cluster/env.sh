# Read by every login shell of a node (setup.sh puts it into ~/.bashrc), so by Ray, its workers and `ray submit`.
export PATH="$HOME/.raybd/venv/bin:$PATH"
export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN_PATH="$HOME/.raybd/secrets/ray_token"
export RAY_USAGE_STATS_ENABLED=0
export RAYBD_RESULTS="$HOME/raybd-results"  # a folder that all nodes share, where there is one
export MLFLOW_TRACKING_USERNAME=admin
if [ -r "$HOME/.raybd/secrets/mlflow_password" ]; then
  MLFLOW_TRACKING_PASSWORD=$(cat "$HOME/.raybd/secrets/mlflow_password")
  export MLFLOW_TRACKING_PASSWORD
fi
if [ -r "$HOME/.raybd/tracking_uri" ]; then  # on the head: tracking.sh leaves it there
  MLFLOW_TRACKING_URI=$(cat "$HOME/.raybd/tracking_uri")
  export MLFLOW_TRACKING_URI
fi
