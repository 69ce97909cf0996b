"""Kernels that misbehave in every way we could think of; each must become a row, and harm nobody else."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time

import torch

import attnbench


@attnbench.attention("fine", masks={"none", "causal"}, passes={"forward", "backward", "forward_backward"})
def fine(q, k, v, *, mask, scale):
    """Well behaved."""
    scores = q @ k.transpose(-2, -1) * scale
    if mask.kind != "none":
        scores = scores.masked_fill(~mask.to_bool(q.device), float("-inf"))
    return torch.softmax(scores, dim=-1) @ v


@attnbench.attention("fine_numpy", framework="numpy")
def fine_numpy(q, k, v, *, mask, scale):
    """Well behaved, in NumPy."""
    import numpy as np

    scores = q @ k.swapaxes(-2, -1) * q.dtype.type(scale)
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return scores / scores.sum(axis=-1, keepdims=True) @ v


@attnbench.attention("segfault")
def segfault(q, k, v, *, mask, scale):
    ctypes.string_at(0)


@attnbench.attention("hang")
def hang(q, k, v, *, mask, scale):
    while True:
        time.sleep(60)


@attnbench.attention("spin")
def spin(q, k, v, *, mask, scale):
    while True:
        pass


@attnbench.attention("exit_now")
def exit_now(q, k, v, *, mask, scale):
    sys.stderr.write("the sky is falling\n")
    sys.stderr.flush()
    os._exit(3)


@attnbench.attention("system_exit")
def system_exit(q, k, v, *, mask, scale):
    sys.exit(3)


@attnbench.attention("raises")
def raises(q, k, v, *, mask, scale):
    raise ValueError("the shape was not to my liking\nand there is more to say")


@attnbench.attention("interrupts")
def interrupts(q, k, v, *, mask, scale):
    raise KeyboardInterrupt


@attnbench.attention("abort")
def abort(q, k, v, *, mask, scale):
    os.abort()


@attnbench.attention("needs_package")
def needs_package(q, k, v, *, mask, scale):
    import surely_not_installed.kernels  # noqa: F401


@attnbench.attention("allocates_tensors")
def allocates_tensors(q, k, v, *, mask, scale):
    hoard = []
    while True:
        hoard.append(torch.ones(2**22))


@attnbench.attention("allocates_arrays", framework="numpy")
def allocates_arrays(q, k, v, *, mask, scale):
    import numpy as np

    hoard = []
    while True:
        hoard.append(np.ones(2**22))


@attnbench.attention("allocates_objects")
def allocates_objects(q, k, v, *, mask, scale):
    hoard = []
    while True:
        hoard.append([None] * 1000)


@attnbench.attention("prints")
def prints(q, k, v, *, mask, scale):
    for descriptor in (1, 2):
        for _ in range(64):
            os.write(descriptor, b'{"id": 1, "ok": true}\n' * 3000)
    print("and by print, too")
    return fine(q, k, v, mask=mask, scale=scale)


@attnbench.attention("prints_and_dies")
def prints_and_dies(q, k, v, *, mask, scale):
    os.write(2, b"x" * 3_000_000 + b"\nthese are my \x1b[31mlast\x00 words\n\n")
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)


@attnbench.attention("returns_none")
def returns_none(q, k, v, *, mask, scale):
    return None


@attnbench.attention("wrong_shape")
def wrong_shape(q, k, v, *, mask, scale):
    return fine(q, k, v, mask=mask, scale=scale)[:, :, :-1]


@attnbench.attention("overwrites_inputs")
def overwrites_inputs(q, k, v, *, mask, scale):
    output = fine(q, k, v, mask=mask, scale=scale)
    k.zero_()
    return output


@attnbench.attention("last_row_unwritten")
def last_row_unwritten(q, k, v, *, mask, scale):
    output = torch.empty_like(q)
    output[:, :, :-1] = fine(q, k, v, mask=mask, scale=scale)[:, :, :-1]
    return output


@attnbench.attention("kills_parent")
def kills_parent(q, k, v, *, mask, scale):
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)


@attnbench.attention("closes_everything")
def closes_everything(q, k, v, *, mask, scale):
    os.closerange(3, 256)
    time.sleep(60)


@attnbench.attention("forks")
def forks(q, k, v, *, mask, scale):
    os.fork()
    return fine(q, k, v, mask=mask, scale=scale)


@attnbench.attention("forks_and_dies")
def forks_and_dies(q, k, v, *, mask, scale):
    if os.fork() == 0:
        time.sleep(60)
        os._exit(0)
    os.kill(os.getpid(), signal.SIGSEGV)


@attnbench.attention("returns_sparse")
def returns_sparse(q, k, v, *, mask, scale):
    return fine(q, k, v, mask=mask, scale=scale).to_sparse()


OUTPUTS = []


@attnbench.attention("replays")
def replays(q, k, v, *, mask, scale):
    """Right for five calls, which is as often as it is judged; from then on it has been."""
    if len(OUTPUTS) < 6:
        OUTPUTS.append(fine(q, k, v, mask=mask, scale=scale))
    return OUTPUTS[-1]


@attnbench.attention("replays_numpy", framework="numpy")
def replays_numpy(q, k, v, *, mask, scale):
    if len(OUTPUTS) < 6:
        OUTPUTS.append(fine_numpy(q, k, v, mask=mask, scale=scale))
    return OUTPUTS[-1]


@attnbench.attention("leaves_children")
def leaves_children(q, k, v, *, mask, scale):
    """One in the bench's group, one in a session of its own; their ids go to a file that the test names."""
    with open(os.environ["ATTNBENCH_TEST_CHILDREN"], "a") as file:
        for session in (False, True):
            child = subprocess.Popen(["sleep", "600"], start_new_session=session)
            file.write(f"{child.pid}\n")
    return fine(q, k, v, mask=mask, scale=scale)
