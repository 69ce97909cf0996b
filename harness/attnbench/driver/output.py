"""What measuring processes print: read so that none ever waits, and forgotten but for the last few KiB."""

from __future__ import annotations

import os
import select
import threading

__all__ = ["TAIL_BYTES", "Output"]

#: How much is kept: enough for a traceback.
TAIL_BYTES = 8192


class Output:
    """The read end of the pipe that is file descriptors 1 and 2 of a zygote and its benches.

    A daemon thread drains it. Give `writer` to the processes, then `close_writer`.
    """

    def __init__(self) -> None:
        self._reader, self.writer = os.pipe()
        os.set_blocking(self._reader, False)
        self._wake_reader, self._wake_writer = os.pipe()
        self._lock = threading.Lock()
        self._tail = b""
        self._seen = 0
        self._open = True
        self._thread = threading.Thread(target=self._drain, name="attnbench-output", daemon=True)
        self._thread.start()

    def mark(self) -> int:
        """How many bytes have come so far; for `since`."""
        with self._lock:
            self._pull()
            return self._seen

    def since(self, mark: int = 0) -> str:
        """What came after `mark`, as far as it is kept."""
        with self._lock:
            self._pull()
            kept = self._tail[-(self._seen - mark) :] if self._seen > mark else b""
        return kept.decode(errors="replace")

    def close_writer(self) -> None:
        """Close this process's own copy of the write end."""
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1

    def close(self) -> None:
        """Stop reading: from then on, whoever still prints fails at it. Can be called twice."""
        if not self._open:
            return
        self._open = False
        os.write(self._wake_writer, b"x")
        self._thread.join()
        self.close_writer()
        for descriptor in (self._reader, self._wake_reader, self._wake_writer):
            os.close(descriptor)

    def _drain(self) -> None:
        while True:
            ready, _, _ = select.select([self._reader, self._wake_reader], [], [])
            if self._wake_reader in ready:
                return
            with self._lock:
                if not self._pull():
                    return

    def _pull(self) -> bool:
        """Take what is there without waiting; False at the end of the file. The lock is held."""
        while True:
            try:
                chunk = os.read(self._reader, 65536)
            except BlockingIOError:
                return True
            if not chunk:
                return False
            self._seen += len(chunk)
            self._tail = (self._tail + chunk)[-TAIL_BYTES:]
