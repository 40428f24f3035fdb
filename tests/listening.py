"""Where this process and those that it started listen, as the kernel says (`ss -ltn`)."""

import ipaddress
import os
import re
from pathlib import Path


def listening() -> set[str]:
    """ADDRESS:PORT of every TCP socket on which this process or a descendant listens; an IPv4 address as such."""
    sockets = {inode for pid in _family(os.getpid()) for inode in _sockets(pid)}
    return {door for inode, door in _doors() if inode in sockets}


def _family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task").glob("*/children")
    return [pid, *(one for file in children for child in file.read_text().split() for one in _family(int(child)))]


def _sockets(pid: int) -> set[str]:
    found = set()
    for descriptor in Path(f"/proc/{pid}/fd").glob("*"):
        try:
            found |= set(re.findall(r"socket:\[(\d+)\]", str(descriptor.readlink())))
        except OSError:  # closed meanwhile
            continue
    return found


def _doors() -> list[tuple[str, str]]:
    """Inode and place of every listening socket of this network."""
    made = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A":  # LISTEN
                made.append((words[9], _place(words[1])))
    return made


def _place(text: str) -> str:
    """HEX:PORT of the kernel as ADDRESS:PORT; words of 32 bits are little-endian, as on x86 and arm."""
    digits, _, port = text.partition(":")
    words = [bytes.fromhex(digits[start : start + 8])[::-1] for start in range(0, len(digits), 8)]
    address = ipaddress.ip_address(b"".join(words))
    inner = getattr(address, "ipv4_mapped", None)
    return f"{inner or address}:{int(port, 16)}"
