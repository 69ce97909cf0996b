from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from attnbench import store
from attnbench.errors import RunError, UsageError
from attnbench.record import SCHEMA_VERSION, Record
from builders import make_block, make_header, make_record, make_records

RECORDS = "records-main.jsonl"


def make_run(root: Path, records: list[Record], name: str = "run") -> Path:
    with store.create(root, name, make_header()) as writer:
        for record in records:
            writer.append(record)
    return root / name


def small(implementation: str = "naive", **overrides: Any) -> Record:
    return make_record(implementation, processes=1, rounds=2, **overrides)


def refused(path: Path) -> str:
    with pytest.raises(RunError) as error:
        store.read(path)
    return str(error.value)


# Writing and reading


def test_what_is_appended_is_read_back(tmp_path: Path) -> None:
    records = make_records()
    run = store.read(make_run(tmp_path / "results", records))
    assert list(run.records) == records
    assert run.run_id == "run"
    assert {key: run.header[key] for key in make_header()} == make_header()
    assert (run.header["schema"], run.header["kind"]) == (SCHEMA_VERSION, "attnbench-run")


def test_every_record_is_one_sorted_line(tmp_path: Path) -> None:
    lines = (make_run(tmp_path, [small(), small("sdpa")]) / RECORDS).read_text().splitlines()
    assert len(lines) == 2
    for line in lines:
        assert json.dumps(json.loads(line), sort_keys=True, separators=(",", ":")) == line


def test_a_record_is_one_write_and_synced_before_it_is_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    write, fsync = os.write, os.fsync

    def noted_write(descriptor: int, data: bytes) -> int:
        calls.append("write")
        return write(descriptor, data)

    def noted_fsync(descriptor: int) -> None:
        calls.append("fsync")
        fsync(descriptor)

    with store.create(tmp_path, "run", {}) as writer:
        monkeypatch.setattr(os, "write", noted_write)
        monkeypatch.setattr(os, "fsync", noted_fsync)
        writer.append(make_record())
    assert calls == ["write", "fsync"]


def test_a_number_that_json_lacks_is_refused_and_leaves_the_file_alone(tmp_path: Path) -> None:
    with store.create(tmp_path, "run", {}) as writer:
        writer.append(small())
        with pytest.raises(ValueError, match="numpy has no JSON form"):
            writer.append(small("numpy", duration_s=float("nan")))
    assert [record.implementation for record in store.read(tmp_path / "run").records] == ["naive"]


def test_a_closed_writer_writes_no_more(tmp_path: Path) -> None:
    writer = store.create(tmp_path, "run", {})
    writer.close()
    writer.close()
    with pytest.raises(RunError, match="is closed"):
        writer.append(small())


def test_a_reader_sees_what_is_acknowledged_while_the_writer_goes_on(tmp_path: Path) -> None:
    with store.create(tmp_path, "run", {}) as writer:
        for count, record in enumerate(make_block(), start=1):
            writer.append(record)
            assert len(store.read(writer.path).records) == count


def test_the_files_of_all_writers_are_read(tmp_path: Path) -> None:
    path = make_run(tmp_path, [small()])
    with store.resume(path, {}, writer="gpu1") as writer:
        writer.append(small("sdpa"))
    assert {record.implementation for record in store.read(path).records} == {"naive", "sdpa"}


# Names and folders


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "/abs", "a\\b", "-x", ".hidden", "a\0b", "a\nb", "x" * 201]
)
def test_a_name_that_is_no_plain_folder_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="plain folder name"):
        store.create(tmp_path, name, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["run", "folder", "file", "link"])
def test_an_existing_name_is_never_taken(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "run"
    if kind == "run":
        make_run(tmp_path, [small()])
    elif kind == "folder":
        target.mkdir()
    elif kind == "file":
        target.write_text("mine")
    else:
        target.symlink_to("nowhere")
    with pytest.raises(RunError, match=r"exists; choose another name with --name, or .* --resume"):
        store.create(tmp_path, "run", {})
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_the_folder_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[str]] = []

    def failing_rename(source: Path, target: Path) -> None:
        assert not target.exists()
        seen.append({path.name for path in source.iterdir()})
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "rename", failing_rename)
    with pytest.raises(RunError, match="cannot be made: Input/output error"):
        store.create(tmp_path, "run", {})
    assert seen == [{"run.json", RECORDS}]
    assert list(tmp_path.iterdir()) == []


def test_who_comes_second_in_a_race_is_told_that_the_name_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.rename

    def overtaken(source: Path, target: Path) -> None:
        target.mkdir()
        (target / "run.json").touch()
        rename(source, target)

    monkeypatch.setattr(os, "rename", overtaken)
    with pytest.raises(RunError, match="exists; choose another name"):
        store.create(tmp_path, "run", {})
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_root_that_cannot_be_made_is_an_error_with_a_next_step(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="choose another place with --out"):
        store.create(tmp_path / "file", "run", {})


def test_the_stores_own_keys_are_not_the_callers(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="run_id"):
        store.create(tmp_path, "run", {"run_id": "mine"})


# Full disks


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    room = 100

    def filling_up(descriptor: int, data: bytes) -> int:
        nonlocal room
        if room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = write(descriptor, data[:room])
        room -= written
        return written

    with store.create(tmp_path, "run", {}) as writer:
        writer.append(small())
        before = (writer.path / RECORDS).read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", filling_up)
            with pytest.raises(RunError, match=r"jsonl: .*sdpa.*No space left on device.*--resume"):
                writer.append(small("sdpa"))
        assert (writer.path / RECORDS).read_bytes() == before
        assert writer.finished == {("example", small().block_id): frozenset({small().case_id})}
        writer.append(small("sdpa"))  # room was made
    assert len(store.read(writer.path).records) == 2


def test_an_interrupt_in_the_middle_of_a_write_leaves_no_torn_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write

    def interrupted(descriptor: int, data: bytes) -> int:
        write(descriptor, data[:50])
        raise KeyboardInterrupt

    with store.create(tmp_path, "run", {}) as writer:
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", interrupted)
            with pytest.raises(KeyboardInterrupt):
                writer.append(small())
        writer.append(small("sdpa"))
    assert [record.implementation for record in store.read(writer.path).records] == ["sdpa"]


def test_where_even_taking_back_fails_nothing_more_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write

    def torn(descriptor: int, data: bytes) -> int:
        write(descriptor, data[:50])
        raise OSError(errno.EIO, "Input/output error")

    def broken(descriptor: int, length: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with store.create(tmp_path, "run", {}) as writer:
        writer.append(small())
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", torn)
            patch.setattr(os, "ftruncate", broken)
            with pytest.raises(RunError, match="Input/output error"):
                writer.append(small("sdpa"))
        with pytest.raises(RunError, match="is closed"):
            writer.append(small("numpy"))
    assert len(store.read(writer.path).records) == 1


def test_short_writes_are_carried_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    with store.create(tmp_path, "run", {}) as writer:
        monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:100]))
        writer.append(make_record())
    assert store.read(writer.path).records == (make_record(),)


WRITER = """
import resource, sys
from pathlib import Path
from builders import make_record
from attnbench import store
from attnbench.errors import RunError

root, limit = Path(sys.argv[1]), int(sys.argv[2])
with store.create(root, "run", {}) as writer:
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    for number in range(100_000):
        record = make_record(f"kernel{number}", processes=1, rounds=2)
        try:
            writer.append(record)
        except RunError as error:
            print(error, file=sys.stderr)
            sys.exit(2)
        print(record.case_id, flush=True)
"""


def start_writer(root: Path, limit: int = 0) -> subprocess.Popen[str]:
    tests = Path(__file__).parent.parent
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(root), str(limit)],
        env={**os.environ, "PYTHONPATH": str(tests)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_limit_of_the_file_size_loses_nothing_acknowledged(tmp_path: Path) -> None:
    acknowledged, errors = start_writer(tmp_path, limit=10_000).communicate(timeout=60)
    run = store.read(tmp_path / "run")
    assert [record.case_id for record in run.records] == acknowledged.split()
    assert len(run.records) > 3
    assert "File too large" in errors
    content = (tmp_path / "run" / RECORDS).read_bytes()
    assert content.endswith(b"\n")  # nothing torn either
    assert len(content) <= 10_000


def test_a_killed_writer_loses_nothing_acknowledged(tmp_path: Path) -> None:
    process = start_writer(tmp_path)
    assert process.stdout is not None
    acknowledged = [process.stdout.readline().strip() for _ in range(20)]
    process.send_signal(signal.SIGKILL)
    acknowledged += process.communicate(timeout=60)[0].split()
    assert process.returncode == -signal.SIGKILL
    found = [record.case_id for record in store.read(tmp_path / "run").records]
    assert found[: len(acknowledged)] == acknowledged
    assert len(found) <= len(acknowledged) + 1  # the one it was killed over
    with store.resume(tmp_path / "run", {}) as writer:  # its lock went with it
        writer.append(small())
    assert [record.case_id for record in store.read(tmp_path / "run").records] == [*found, small().case_id]


# Locks


def test_a_run_in_use_is_refused_with_who_uses_it(tmp_path: Path) -> None:
    process = start_writer(tmp_path)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        with pytest.raises(RunError, match=r"in use by another attnbench( \(process \d+\))?; .*--name"):
            store.resume(tmp_path / "run", {})
        assert store.read(tmp_path / "run").records
    finally:
        process.kill()
        process.communicate(timeout=60)


def test_no_child_inherits_the_lock(tmp_path: Path) -> None:
    writer = store.create(tmp_path, "run", {})
    child = subprocess.Popen(
        [sys.executable, "-c", "print('up', flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        close_fds=False,
    )
    try:
        assert child.stdout is not None
        child.stdout.readline()  # only from here on has it surely left this program behind
        with pytest.raises(RunError, match="in use"):
            store.resume(writer.path, {})
        writer.close()
        store.resume(writer.path, {}).close()
    finally:
        child.communicate(b"\n", timeout=60)


# Torn and corrupted files


def test_a_torn_last_line_is_passed_over_and_then_cut_off(tmp_path: Path) -> None:
    path = make_run(tmp_path, [small(), small("sdpa")])
    file = path / RECORDS
    whole = file.read_bytes()
    first = whole.index(b"\n") + 1
    for length in range(first, len(whole)):
        file.write_bytes(whole[:length])
        assert store.read(path).records == (small(),)
        assert file.read_bytes() == whole[:length]  # a reader changes nothing
    for length in (first, first + 1, (first + len(whole)) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        with store.resume(path, {}) as writer:
            assert file.read_bytes() == whole[:first]
            writer.append(small("sdpa"))
        assert file.read_bytes() == whole


@pytest.mark.parametrize(
    "garbage", [b"\0\0\0\n", b'{"half": \n', b"\n", b"\xff\xfe\n", b"NaN\n", b"[" * 100_000 + b"\n"]
)
def test_a_last_line_that_is_not_json_is_cut_off(tmp_path: Path, garbage: bytes) -> None:
    path = make_run(tmp_path, [small()])
    whole = (path / RECORDS).read_bytes()
    (path / RECORDS).write_bytes(whole + garbage)
    assert store.read(path).records == (small(),)
    store.resume(path, {}).close()
    assert (path / RECORDS).read_bytes() == whole


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"{", "Expecting"),
        (b"", "Expecting value"),
        (b'{"schema": 1}', "is missing"),
        (b"NaN", "NaN is not JSON"),
        (b"\xff", "utf-8"),
    ],
)
def test_a_corrupted_line_in_the_middle_is_named_and_nothing_overwritten(
    tmp_path: Path, line: bytes, why: str
) -> None:
    path = make_run(tmp_path, [small(), small("sdpa")])
    lines = (path / RECORDS).read_bytes().splitlines()
    corrupted = b"\n".join([lines[0], line, lines[1]]) + b"\n"
    (path / RECORDS).write_bytes(corrupted)
    header = (path / "run.json").read_bytes()
    message = refused(path)
    assert f"{path / RECORDS}:2: " in message
    assert why in message
    with pytest.raises(RunError, match="restore the file"):
        store.resume(path, {})
    assert (path / RECORDS).read_bytes() == corrupted
    assert (path / "run.json").read_bytes() == header


def test_a_whole_last_line_of_a_newer_version_is_not_taken_for_a_torn_one(tmp_path: Path) -> None:
    path = make_run(tmp_path, [small()])
    newer = json.dumps({**small("sdpa").to_json(), "schema": SCHEMA_VERSION + 1}).encode() + b"\n"
    content = (path / RECORDS).read_bytes() + newer
    (path / RECORDS).write_bytes(content)
    with pytest.raises(RunError, match=r"records-main\.jsonl:2: .*a newer attnbench"):
        store.resume(path, {})
    assert (path / RECORDS).read_bytes() == content


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "is corrupted"),
        ("{", "is corrupted"),
        ("[]", "is no run of attnbench"),
        ('{"kind": "other"}', "is no run of attnbench"),
        ('{"kind": "attnbench-run", "schema": 1}', "is no run of attnbench"),
        ('{"kind": "attnbench-run", "run_id": "x", "schema": "1"}', "schema: expected a whole number"),
        ('{"kind": "attnbench-run", "run_id": "x", "schema": 99}', "upgrade attnbench"),
        ('{"kind": "attnbench-run", "run_id": "x", "schema": 1, "resumed": 3}', "resumed: expected a list"),
    ],
)
def test_a_run_json_that_is_none_is_refused(tmp_path: Path, content: str, expected: str) -> None:
    path = make_run(tmp_path, [])
    (path / "run.json").write_text(content)
    assert expected in refused(path)
    with pytest.raises(RunError):
        store.resume(path, {})
    assert (path / "run.json").read_text() == content


def test_what_is_no_run_is_refused_and_left_alone(tmp_path: Path) -> None:
    assert "there is no such run" in refused(tmp_path / "missing")
    (tmp_path / "folder").mkdir()
    assert "holds no run.json" in refused(tmp_path / "folder")
    (tmp_path / "file").touch()
    assert "is a file; expected a run's folder" in refused(tmp_path / "file")
    path = make_run(tmp_path, [])
    (path / "records-other.jsonl").mkdir()
    assert "records-other.jsonl: is no regular file" in refused(path)
    with pytest.raises(RunError, match=r"holds no run\.json"):
        store.resume(tmp_path / "folder", {})
    assert list((tmp_path / "folder").iterdir()) == []


@pytest.mark.parametrize("name", ["run.json", "records-other.jsonl"])
@pytest.mark.parametrize("endless", ["pipe", "device"])
def test_what_would_be_read_without_end_is_refused(tmp_path: Path, name: str, endless: str) -> None:
    path = make_run(tmp_path, [small()])
    (path / name).unlink(missing_ok=True)
    if endless == "pipe":
        os.mkfifo(path / name)
    else:
        (path / name).symlink_to("/dev/zero")
    assert f"{name}: is no regular file; restore it from a copy" in refused(path)


# Resuming


def test_a_run_goes_on_under_the_header_it_was_made_with(tmp_path: Path) -> None:
    path = make_run(tmp_path, [small()])
    later = make_header(command=["attnbench", "sweep", "--resume"], scenarios=[], started_at="later")
    for count in (1, 2):
        with store.resume(path, later) as writer:
            assert writer.run_id == "run"
            assert writer.header["scenarios"] == make_header()["scenarios"]
        header = store.read(path).header
        assert header["command"] == make_header()["command"]
        assert [entry["command"] for entry in header["resumed"]] == [later["command"]] * count
        assert header["resumed"][0]["environment"] == later["environment"]
        assert header["resumed"][0]["at"].endswith("Z")
    assert sorted(file.name for file in path.iterdir()) == [RECORDS, "run.json"]


def test_a_failed_resume_changes_nothing_and_gives_up_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_run(tmp_path, [small()])
    before = (path / "run.json").read_bytes()

    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(RunError, match=r"run\.json: cannot be written: No space left on device"):
            store.resume(path, {})
    assert (path / "run.json").read_bytes() == before
    assert sorted(file.name for file in path.iterdir()) == [RECORDS, "run.json"]
    store.resume(path, {}).close()


def test_the_highest_attempt_counts_in_the_order_of_first_appearance(tmp_path: Path) -> None:
    first = [small(), small("sdpa"), small(mask="causal")]
    again = [small("sdpa", attempt=2, duration_s=9.0), small(attempt=2, duration_s=9.0)]
    run = store.read(make_run(tmp_path, first + again))
    assert [(record.case_id, record.attempt) for record in run.records] == [
        (first[0].case_id, 2),
        (first[1].case_id, 2),
        (first[2].case_id, 1),
    ]


def test_the_same_case_of_two_scenarios_is_two_records(tmp_path: Path) -> None:
    run = store.read(make_run(tmp_path, [small(), small(scenario="other")]))
    assert [record.scenario for record in run.records] == ["example", "other"]


def test_finished_are_the_cases_of_a_blocks_latest_attempt(tmp_path: Path) -> None:
    block = small().block_id
    path = make_run(tmp_path, [small(), small("sdpa")])
    with store.resume(path, {}) as writer:
        assert writer.finished == {("example", block): frozenset({small().case_id, small("sdpa").case_id})}
        attempt = writer.attempt_of("example", small("numpy").case_id)  # one that was not reached
        assert attempt == 2
        writer.append(small("numpy", attempt=attempt))
        # All three have a record, but not of one measurement: the block is not finished.
        assert writer.finished == {("example", block): frozenset({small("numpy").case_id})}
        assert writer.attempt_of("example", small().case_id) == 3
        assert writer.attempt_of("other", small().case_id) == 1
        assert writer.attempt_of("example", small(mask="causal").case_id) == 1
    with store.resume(path, {}) as writer:
        assert writer.finished == {("example", block): frozenset({small("numpy").case_id})}
