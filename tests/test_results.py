"""The file of results: nothing is lost, whoever writes at the same time and however it ends."""

import json
import multiprocessing
import random

import pytest

from snrgate.lab.errors import InputError
from snrgate.lab.training.results import Key, Results

FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(["snrgate.lab.training.results"])


def write(path, name, count, done):
    """What a child process does: one result after the other."""
    for i in range(count):
        Results(path).update({Key("runs", name, i): {"last": {"m": i / 7}, "text": "x" * 5000}})
        done.send(i)


def child(path, name, count):
    mine, theirs = FORKSERVER.Pipe(duplex=False)
    process = FORKSERVER.Process(target=write, args=(path, name, count, theirs))
    process.start()
    theirs.close()
    return process, mine


def test_what_is_written_is_read(tmp_path):
    results = Results(tmp_path / "runs.jsonl")
    assert results.read() == {}
    first = {"settings": {"a": [1, 2]}, "last": {"m": 0.1 + 0.2}, "best": {"m": -float("inf")}}
    results.update({Key("runs", "b", 1): first, Key("runs", "a", 0): {"last": {"m": 2}}})
    results.update({Key("runs", "b", 1): first | {"seconds": 3}, Key("runs", "a", 0): None})
    assert results.read() == {Key("runs", "b", 1): first | {"seconds": 3}}
    assert [json.loads(line)["name"] for line in results.path.read_text().splitlines()] == ["b"]
    assert list(tmp_path.iterdir()) == [results.path]


@pytest.mark.parametrize("text", ["words\n", "3\n", '{"part": "runs", "name": "a"}\n', "{\n"])
def test_a_line_that_is_no_result_is_named_and_nothing_is_lost(tmp_path, text):
    path = tmp_path / "runs.jsonl"
    Results(path).update({Key("runs", "a", 0): {"last": 1}})
    path.write_text(before := path.read_text() + text)
    for use in (Results(path).read, lambda: Results(path).update({Key("runs", "b", 0): {}})):
        with pytest.raises(InputError, match=r"line 2 of .*runs.jsonl is no result"):
            use()
    assert path.read_text() == before


def test_two_processes_write_at_once(tmp_path):
    path = tmp_path / "runs.jsonl"
    children = [child(path, name, 40) for name in ("a", "b")]
    for process, _ in children:
        process.join(60)
        assert process.exitcode == 0
    assert set(Results(path).read()) == {Key("runs", n, i) for n in "ab" for i in range(40)}


def test_a_process_that_is_killed_takes_no_result_with_it(tmp_path):
    path, rng, done = tmp_path / "runs.jsonl", random.Random(0), set()
    Results(path).update({Key("runs", "before", 0): {"last": 1}})
    for turn in range(6):
        process, pipe = child(path, f"turn{turn}", 10_000)
        assert pipe.poll(60)  # it has written one
        process.join(rng.uniform(0, 0.1))
        process.kill()
        process.join()
        while pipe.poll():
            try:
                done.add(Key("runs", f"turn{turn}", pipe.recv()))
            except EOFError:
                break
        there = set(Results(path).read())
        assert {Key("runs", "before", 0), *done} <= there
    assert len({key.name for key in done}) == 6
