"""Machines made of namespaces: each has its own address, disk, processes and sshd, and ends with its first process.

`python -m tests.cluster` puts all of them into one more set of namespaces, where nothing else runs.
"""

import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

USER = "me"
ID = 1000  # of USER and its group
LAPTOP = "10.0.0.254"
PRIVATE = "--net --mount --pid --ipc --uts --fork --mount-proc --kill-child".split()
SSHD = """\
HostKey /mnt/etc/hostkey
AllowUsers {user}
UsePAM no
PasswordAuthentication no
PidFile none
MaxStartups 50
SetEnv PIP_NO_INDEX=1 PIP_FIND_LINKS=/mnt/wheels PIP_CONFIG_FILE=/dev/null
"""


@dataclass(frozen=True)
class Machine:
    """One that runs."""

    name: str
    address: str
    disk: Path
    process: subprocess.Popen[bytes]

    def cut_power(self) -> None:
        """End every process of it at once; nobody is told."""
        self.process.send_signal(signal.SIGKILL)  # takes the first process of the machine along, and that one the rest
        self.process.wait()

    @property
    def home(self) -> Path:
        """The home of USER, as seen from outside."""
        return self.disk / "home" / USER


def network() -> None:
    """A bridge for the machines, on which this place is LAPTOP."""
    for command in (
        "link set lo up",
        "link add lab type bridge",
        f"address add {LAPTOP}/24 dev lab",
        "link set lab up",
    ):
        subprocess.run(["ip", *command.split()], check=True)


def start(name: str, address: str, folder: Path, key: Path, wheels: Path) -> Machine:
    """A fresh machine, that lets in who has `key`; its disk is in `folder`.

    Raises:
        TimeoutError: its sshd does not answer.
    """
    disk = folder / name
    _make_disk(disk, name, address, key)
    script = Path(__file__).with_name("machine.sh")
    with (folder / f"{name}.log").open("wb") as log:
        words = [disk, name, address, LAPTOP, wheels, sys.base_prefix]
        command = ["unshare", *PRIVATE, "bash", str(script), *map(str, words)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    _plug_in(process, f"lab-{name}"[:15])
    machine = Machine(name, address, disk, process)
    _await_ssh(machine, key, log.name)
    return machine


def clone_packages(of: Machine, to: Path) -> None:
    """Give the disk at `to` the packages that `of` has installed: hard links, which pip replaces and never edits."""
    home = to / "home" / USER / ".raybd"
    home.mkdir(parents=True, mode=0o700)
    subprocess.run(["cp", "--archive", "--link", of.home / ".raybd/venv", home / "venv"], check=True)


def _make_disk(disk: Path, name: str, address: str, key: Path) -> None:
    home = disk / "home" / USER
    for folder in (disk / "etc", disk / "root", disk / "tmp", disk / "wheels", home / ".ssh"):
        folder.mkdir(parents=True, exist_ok=True)
    (disk / "tmp").chmod(0o1777)
    (disk / "etc/hosts").write_text(f"127.0.0.1 localhost\n{address} {name}\n")
    others = [line for line in Path("/etc/passwd").read_text().splitlines() if line.split(":")[2] != str(ID)]
    (disk / "etc/passwd").write_text("\n".join([*others, f"{USER}:x:{ID}:{ID}::/home/{USER}:/bin/bash", ""]))
    (disk / "etc/sshd_config").write_text(SSHD.format(user=USER))
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", disk / "etc/hostkey"], check=True)
    for file in Path("/etc/skel").iterdir():
        shutil.copy(file, home)
    with (home / ".bashrc").open("a") as file:
        file.write(f'export PATH="{sys.base_prefix}/bin:$PATH"\n')  # this machine's python3, wherever it is installed
    shutil.copy(key.with_suffix(".pub"), home / ".ssh/authorized_keys")
    subprocess.run(["chown", "-R", f"{ID}:{ID}", home], check=True)


def _plug_in(process: subprocess.Popen[bytes], port: str) -> None:
    """Give the machine a cable to the bridge, as soon as it has a network of its own to put it into."""
    here = Path("/proc/self/ns/net").readlink()
    while Path(f"/proc/{process.pid}/ns/net").readlink() == here:
        time.sleep(0.01)
    words = f"link add {port} type veth peer name eth0 netns {process.pid}"
    subprocess.run(["ip", *words.split()], check=True)
    subprocess.run(["ip", "link", "set", port, "master", "lab", "up"], check=True)


def _await_ssh(machine: Machine, key: Path, log: str) -> None:
    options = "-o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o ConnectTimeout=2"
    command = ["ssh", "-q", "-i", str(key), *options.split(), f"{USER}@{machine.address}", "true"]
    for _ in range(600):
        if subprocess.run(command, check=False).returncode == 0:
            return
        time.sleep(0.1)
    raise TimeoutError(f"{machine.name} does not let us in: {Path(log).read_text()}")
