"""Program that joins the Ray at an address and leaves it: `python ray_probe.py HOST:PORT SECONDS`.

Exit status 0 where that Ray lets this user in; else 1, with the reason as the last line of what it prints. A process of
its own, since `ray.init` waits for minutes on an address where nobody answers, and cannot be told to stop.
"""

import logging
import signal
import socket
import sys


def main(address: str, seconds: int) -> int:
    """The exit status; SIGALRM ends the process after `seconds`, also where its parent has died."""
    signal.alarm(seconds)
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError as error:  # refused, unreachable, no such host
        print(error)
        return 1
    import ray  # imported here: a port that refuses is told at once

    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    ray.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
