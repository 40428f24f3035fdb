"""The launcher files: what can be known of them without a cluster."""

import os
import re
import shlex
import socket
import stat
import subprocess
import sys
import time
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import cli

from sweeps import attacks, boundary, defences, ib, learning_curves, smoothing, vibe
from tests.conftest import free_port

ROOT = Path(__file__).parent.parent
LAUNCHERS = ["cluster.yaml", "cluster/aws.yaml", "cluster/gcp.yaml"]
FILES = [*LAUNCHERS, *(f"cluster/{path.name}" for path in sorted((ROOT / "cluster").iterdir()) if path.is_file())]
SCRIPTS = [name for name in FILES if name.endswith((".sh", ".sbatch"))]
PLACES = {"HEAD_ADDRESS": "10.0.0.1", "WORKER_ADDRESS": "10.0.0.2", "SSH_USER": "me", "AMI_ID": "ami-0123456789abcdef0"}
STARTED = re.compile(
    r"unset OMP_NUM_THREADS PYTHONWARNINGS SSH_CLIENT SSH_CONNECTION\b.*;\s"
    r"RAY_AUTH_MODE=token RAY_enable_autoscaler_v2=0 ray start "
)


def launcher(name: str) -> dict[str, Any]:
    """The file as a user would have filled it in."""
    text = (ROOT / name).read_text()
    for place, value in PLACES.items():
        text = text.replace(place, value)
    config: dict[str, Any] = yaml.safe_load(text)
    return config


def starts(config: dict[str, Any]) -> list[str]:
    commands = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    return [command for command in commands if "ray start" in command]


@pytest.mark.parametrize("name", LAUNCHERS)
def test_ray_accepts_the_launcher(name: str) -> None:
    config = launcher(name)
    validate_config(prepare_config(config))
    with pytest.raises(Exception, match="worker_commands"):  # the validator does look
        validate_config(prepare_config(config | {"worker_commands": []}))


def test_the_local_launcher_keeps_every_worker() -> None:
    config = launcher("cluster.yaml")
    config["provider"]["worker_ips"] = ["10.0.0.2", "10.0.0.3"]
    [kind] = prepare_config(config)["available_node_types"].values()
    assert (kind["min_workers"], kind["max_workers"]) == (2, 2)


@pytest.mark.parametrize("name", LAUNCHERS)
def test_every_start_of_ray_has_its_token_and_a_clean_environment(name: str) -> None:
    config = launcher(name)
    found = starts(config)
    assert len(found) == 2
    for command in found:
        assert STARTED.search(command), command
    assert "--head" in found[0]
    assert "--dashboard-host=127.0.0.1" in found[0]
    assert "--address=$RAY_HEAD_IP:6379" in found[1]
    assert not STARTED.search(found[0].replace("RAY_AUTH_MODE=token ", ""))


@pytest.mark.parametrize("name", LAUNCHERS)
def test_commands_are_bash_and_name_files_of_the_checkout(name: str) -> None:
    config = launcher(name)
    assert config["file_mounts"]["~/raybd-checkout"] == "."
    commands = [c for key, value in config.items() if key.endswith("commands") for c in value]
    for command in commands:
        subprocess.run(["bash", "-n", "-c", command], check=True)
        for path in re.findall(r"~/raybd-checkout/(\S+)", command):
            assert (ROOT / path).is_file(), command
    assert "bash ~/raybd-checkout/cluster/setup.sh" in config["setup_commands"]
    assert any("cluster/tracking.sh" in command for command in config["head_start_ray_commands"])


@pytest.mark.parametrize("name", ["cluster/aws.yaml", "cluster/gcp.yaml"])
def test_workers_of_a_cloud_are_spot_with_a_gpu_and_the_head_is_neither(name: str) -> None:
    config = launcher(name)
    head, worker = (config["available_node_types"][kind]["node_config"] for kind in ("head", "worker"))
    spot = {"MarketType": "spot"} if "aws" in name else [{"preemptible": True}, {"onHostMaintenance": "TERMINATE"}]
    assert worker.get("InstanceMarketOptions", worker.get("scheduling")) == spot
    assert not {"InstanceMarketOptions", "scheduling"} & set(head)
    assert any("RAYBD_ARTIFACTS=" in command for command in config["head_start_ray_commands"])


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_bash(name: str) -> None:
    subprocess.run(["bash", "-n", ROOT / name], check=True)


def test_the_slurm_job_has_token_environment_and_options_that_ray_takes() -> None:
    text = (ROOT / "cluster/slurm.sbatch").read_text().replace("\\\n", " ")
    assert "unset OMP_NUM_THREADS PYTHONWARNINGS SSH_CLIENT SSH_CONNECTION" in text
    [command] = re.findall(r"RAY_AUTH_MODE=token srun (ray symmetric-run .*)", text)
    options, _, entry = command.partition(" -- ")
    assert entry == 'python sweeps/ib.py "$@"'
    known = {option for parameter in cli.commands["start"].params for option in parameter.opts}
    asked = re.findall(r"--[a-z-]+", options)
    assert set(asked) - {"--min-nodes"} <= known


# Of KubeRay's reference of ray.io/v1 (1.5.1 and newer), and of Kubernetes' of a container.
JOB = {"entrypoint", "submissionMode", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "backoffLimit"}
GROUP = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}


def test_the_ray_job_s_fields_are_kuberay_s() -> None:
    text = (ROOT / "cluster/kuberay.yaml").read_text()
    job = yaml.safe_load(text)
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert set(job["spec"]) == JOB | {"rayClusterSpec"}
    assert job["spec"]["submissionMode"] in ("K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode")
    cluster = job["spec"]["rayClusterSpec"]
    assert set(cluster) == {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"}
    assert cluster["authOptions"] == {"mode": "token"}
    assert f"ray=={cluster['rayVersion']}" in (ROOT / "constraints.txt").read_text()
    assert f"ray:{cluster['rayVersion']}-" in (ROOT / "cluster/Dockerfile").read_text()
    assert set(cluster["headGroupSpec"]) == {"rayStartParams", "template"}
    [group] = cluster["workerGroupSpecs"]
    assert set(group) == GROUP
    for pods in (cluster["headGroupSpec"], group):
        [container] = pods["template"]["spec"]["containers"]
        assert set(container) == {"name", "image", "resources", "env"}
        assert all(
            set(entry) == {"name", "value"} or "secretKeyRef" in entry["valueFrom"] for entry in container["env"]
        )


@pytest.mark.parametrize("name", FILES)
def test_no_file_holds_a_secret(name: str) -> None:
    text = (ROOT / name).read_text()
    assert not re.search(r"AKIA[0-9A-Z]{16}|BEGIN [A-Z ]*PRIVATE KEY|[0-9a-f]{32}|://[^/\s]+:[^/\s]+@", text)
    assert not re.search(r"(?i)(password|token|secret)[\w-]*\s*[:=]\s*['\"]?[A-Za-z0-9+/]{12,}", text)


def test_what_the_cluster_needs_is_pinned() -> None:
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").open()}
    for package, extra in (("mlflow", "auth"), ("ray", "default")):
        lines = [line for line in requires(package) or [] if f'extra == "{extra}"' in line]
        names = {re.split(r"[\[<>=!;\s]", line)[0].lower().replace("_", "-") for line in lines}
        assert names
        assert names <= pinned, names - pinned


COMMANDS = re.findall(r"^\|[^|]*\| `(ray [^`]*)`", (ROOT / "docs/cluster.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_ray_knows_the_commands_of_the_page(command: str) -> None:
    """Parsed by Ray's own command line, not run."""
    group: Any = cli
    words = shlex.split(command)[1:]
    while isinstance(group, click.Group):
        group = group.commands[words.pop(0)]
    group.make_context(command, words)


def test_a_sweep_s_options_reach_it_without_two_dashes() -> None:
    """`ray submit cluster.yaml sweeps/ib.py --seeds 5`: Ray passes on what it does not know, and knows none of ours."""
    submit: Any = cli.commands["submit"]
    taken = {option for parameter in submit.params for option in parameter.opts}
    for module in (attacks, boundary, defences, ib, learning_curves, smoothing, vibe):
        for options in module.PRESETS.values():
            flags = [f"--{name.replace('_', '-')}" for name in options.flat()]
            assert not taken & set(flags)
            words = ["cluster.yaml", "sweeps/ib.py", *(word for flag in flags for word in (flag, "5"))]
            assert list(submit.make_context("submit", [*words]).params["script_args"]) == words[2:]


# --- the scripts, with a home of their own ---------------------------------------------------------------------------


def run(script: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {"HOME": str(home), "PATH": os.environ["PATH"], **environment}
    return subprocess.run(
        ["bash", "-c", f"umask 022; bash {ROOT / 'cluster' / script}"],
        env=variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def program(home: Path, name: str, text: str) -> None:
    """A stand-in on the PATH of the scripts."""
    path = home / ".raybd/venv/bin" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_secrets_are_made_once_and_for_their_owner_alone(tmp_path: Path) -> None:
    made = []
    for _ in range(2):
        assert run("secrets.sh", tmp_path).returncode == 0
        made.append({path.name: path.read_text() for path in (tmp_path / ".raybd/secrets").iterdir()})
    assert made[0] == made[1]
    assert set(made[0]) == {"ray_token", "mlflow_password", "mlflow_session_key"}
    assert len(set(made[0].values())) == 3
    assert all(len(text) == 64 for text in made[0].values())
    assert mode(tmp_path / ".raybd/secrets") == 0o700
    assert {mode(path) for path in (tmp_path / ".raybd/secrets").iterdir()} == {0o600}


def test_a_login_shell_has_all_that_a_sweep_needs(tmp_path: Path) -> None:
    run("secrets.sh", tmp_path)
    (tmp_path / ".raybd/tracking_uri").write_text("http://10.0.0.1:5000\n")
    said = subprocess.run(
        ["bash", "-uec", f". {ROOT}/cluster/env.sh; env"],
        env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    has = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
    assert has["PATH"].startswith(f"{tmp_path}/.raybd/venv/bin:")
    assert has["RAY_AUTH_MODE"] == "token"
    assert Path(has["RAY_AUTH_TOKEN_PATH"]).read_text()
    assert has["MLFLOW_TRACKING_URI"] == "http://10.0.0.1:5000"
    assert has["MLFLOW_TRACKING_USERNAME"] == "admin"
    assert has["MLFLOW_TRACKING_PASSWORD"] == (tmp_path / ".raybd/secrets/mlflow_password").read_text()
    assert has["RAYBD_RESULTS"] == f"{tmp_path}/raybd-results"


def test_a_node_is_set_up_from_the_pinned_packages_and_once(tmp_path: Path) -> None:
    run("secrets.sh", tmp_path)
    (tmp_path / ".raybd/secrets/ray_token").chmod(0o644)
    (tmp_path / ".bashrc").write_text("# mine\n")
    program(tmp_path, "python", 'printf "%s\\n" "$@" >>"$HOME/args"')
    program(tmp_path, "pip", "")
    for _ in range(2):
        done = run("setup.sh", tmp_path)
        assert done.returncode == 0, done.stderr
    args = (tmp_path / "args").read_text().splitlines()
    assert args[args.index("-c") + 1] == str(ROOT / "constraints.txt")
    assert args[args.index("-e") + 1] == f"{ROOT}[cluster]"
    assert (tmp_path / ".bashrc").read_text() == f"# mine\n. '{ROOT}/cluster/env.sh'\n"
    assert mode(tmp_path / ".raybd/secrets/ray_token") == 0o600


TRACKER = """
import base64, http.server, sys

port, password = int(sys.argv[1]), sys.argv[2]
login = "Basic " + base64.b64encode(f"admin:{password}".encode()).decode()


class Tracker(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        let_in = self.path == "/health" or not password or self.headers.get("Authorization") == login
        self.send_response(200 if let_in else 401)
        self.end_headers()


http.server.HTTPServer(("127.0.0.1", port), Tracker).serve_forever()
"""  # answers as MLflow does; without a password it asks for none


def own_address(home: Path, address: str) -> None:
    """Let `python` on the PATH of the scripts say that this node has `address`."""
    case = f'case "$2" in *get_node_ip_address*) echo {address};; *) exec {sys.executable} "$@";; esac'
    program(home, "python", case)


def test_the_tracking_server_has_a_login_one_address_and_no_secret_on_its_command_line(tmp_path: Path) -> None:
    run("secrets.sh", tmp_path)
    own_address(tmp_path, "127.0.0.1")
    port = str(free_port())
    (tmp_path / "server.py").write_text(TRACKER)
    say = 'echo $$ >>"$HOME/pid"; printf "%s\\n" "$@" >"$HOME/args"; pwd >"$HOME/where"; env >"$HOME/env"'
    serve = f'exec {sys.executable} "$HOME/server.py" {port} "$MLFLOW_AUTH_ADMIN_PASSWORD"'
    program(tmp_path, "mlflow", f"{say}; {serve}")
    try:
        for _ in range(2):
            done = run("tracking.sh", tmp_path, RAYBD_TRACKING_PORT=port, RAYBD_ARTIFACTS="s3://bucket/raybd")
            assert done.returncode == 0, done.stderr
        pids = (tmp_path / "pid").read_text().split()
        assert len(pids) == 1  # the second found the first at work
    finally:
        for pid in (tmp_path / "pid").read_text().split():
            os.kill(int(pid), 15)
    args = (tmp_path / "args").read_text().splitlines()
    options = dict(zip(args[1::2], args[2::2], strict=True))
    assert options["--app-name"] == "basic-auth"
    assert options["--host"] == "127.0.0.1"
    assert options["--artifacts-destination"] == "s3://bucket/raybd"
    assert set(options["--allowed-hosts"].split(",")) == {f"127.0.0.1:{port}", f"localhost:{port}"}
    secrets = [path.read_text() for path in (tmp_path / ".raybd/secrets").iterdir()]
    assert not any(secret in " ".join(args) + done.stdout for secret in secrets)
    assert f"MLFLOW_AUTH_ADMIN_PASSWORD={(tmp_path / '.raybd/secrets/mlflow_password').read_text()}" in (
        tmp_path / "env"
    ).read_text().split("\n")
    assert mode(tmp_path / ".raybd/mlflow") == 0o700
    assert (tmp_path / ".raybd/tracking_uri").read_text() == f"http://127.0.0.1:{port}\n"


@pytest.mark.parametrize("password", ["", "another one"])
def test_a_server_of_somebody_else_is_not_taken_for_the_cluster_s(tmp_path: Path, password: str) -> None:
    run("secrets.sh", tmp_path)
    own_address(tmp_path, "127.0.0.1")
    program(tmp_path, "mlflow", 'touch "$HOME/started"')
    (tmp_path / "server.py").write_text(TRACKER)
    port = str(free_port())
    with subprocess.Popen([sys.executable, tmp_path / "server.py", port, password]) as theirs:
        try:
            wait_for(int(port))
            done = run("tracking.sh", tmp_path, RAYBD_TRACKING_PORT=port)
        finally:
            theirs.kill()
    assert done.returncode == 1
    assert "is no MLflow server with this cluster's login" in done.stderr
    assert not (tmp_path / "started").exists()
    assert not (tmp_path / ".raybd/tracking_uri").exists()


def wait_for(port: int) -> None:
    for _ in range(200):
        with socket.socket() as door:
            if door.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError("nobody answers")


def test_the_tracking_server_does_not_start_on_a_public_address(tmp_path: Path) -> None:
    run("secrets.sh", tmp_path)
    own_address(tmp_path, "8.8.8.8")
    program(tmp_path, "mlflow", 'touch "$HOME/started"')
    done = run("tracking.sh", tmp_path)
    assert done.returncode == 1
    assert "8.8.8.8 is a public address" in done.stderr
    assert not (tmp_path / "started").exists()
