from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnbench import protocol
from attnbench.protocol import Channel, ChannelClosed, DeadlineExceeded, finite_or_none


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    one, other = (Channel(end) for end in socket.socketpair())
    yield one, other
    one.close()
    other.close()


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(st.dictionaries(st.text(), JSON, max_size=3), max_size=4))
def test_messages_arrive_whole_and_in_order(messages: list[dict[str, object]]) -> None:
    one, other = (Channel(end) for end in socket.socketpair())
    try:
        for message in messages:
            one.send(message)
        assert [other.receive(5) for _ in messages] == messages
    finally:
        one.close()
        other.close()


def test_a_message_may_come_in_pieces(ends: tuple[Channel, Channel]) -> None:
    one, other = ends
    one.socket.sendall(b'{"id": ')
    with pytest.raises(DeadlineExceeded):
        other.receive(0)
    one.socket.sendall(b'1}\n{"id": 2}\n')
    assert other.receive(5) == {"id": 1}
    assert other.receive(5) == {"id": 2}


@pytest.mark.parametrize("data", [b"not json\n", b"[1]\n", b"\xff\n", b""])
def test_what_is_no_message_closes_the_channel(ends: tuple[Channel, Channel], data: bytes) -> None:
    one, other = ends
    one.socket.sendall(data)
    one.socket.shutdown(socket.SHUT_WR)
    with pytest.raises(ChannelClosed):
        other.receive(5)


def test_an_endless_message_is_refused(
    ends: tuple[Channel, Channel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "LONGEST_MESSAGE_BYTES", 100)
    one, other = ends
    one.socket.sendall(b"x" * 200)
    with pytest.raises(ChannelClosed, match="longer than 100"):
        other.receive(5)


def test_there_are_no_nan_literals(ends: tuple[Channel, Channel]) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        ends[0].send({"x": float("nan")})
    assert [finite_or_none(x) for x in (1.0, float("nan"), float("inf"), float("-inf"))] == [
        1.0,
        None,
        None,
        None,
    ]


def test_sending_to_nobody_says_so(ends: tuple[Channel, Channel]) -> None:
    one, other = ends
    other.close()
    with pytest.raises(ChannelClosed):
        one.send({"x": "y"})


def test_the_protocol_needs_the_standard_library_alone() -> None:
    code = (
        "import sys; import attnbench.protocol; "
        "print([m for m in ('numpy','torch','pandas','pydantic','scipy') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
