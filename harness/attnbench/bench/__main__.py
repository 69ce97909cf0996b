"""A bench in a process of its own, for where forking one is not safe: `python -m attnbench.bench`.

It leads its own process group and ends with the process whose id it is given.
"""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Sequence
from pathlib import Path

from attnbench.bench.lifeline import die_with
from attnbench.bench.path import put_instead
from attnbench.bench.process import Settings, run
from attnbench.protocol import Channel
from attnbench.registry import Registry


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve on an inherited socket."""
    parser = argparse.ArgumentParser(prog="python -m attnbench.bench", description=__doc__)
    parser.add_argument("--socket-fd", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--plugin", type=Path, action="append", default=[])
    parser.add_argument("--instead", nargs=2, action="append", default=[], metavar=("FOLDER", "OTHER"))
    parser.add_argument("--threads", type=int)
    parser.add_argument("--memory-limit", type=int)
    options = parser.parse_args(arguments)
    die_with(options.parent)
    put_instead(options.instead)
    endpoint = socket.socket(fileno=options.socket_fd)
    os.set_inheritable(options.socket_fd, False)
    import torch  # noqa: F401  # before plug-ins, as in a zygote

    registry = Registry.discover(options.plugin)
    Channel(endpoint).send({"ready": True})
    run(endpoint, registry, Settings(options.threads, options.memory_limit))


if __name__ == "__main__":
    main()
