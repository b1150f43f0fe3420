"""Traces: what is read, and what is refused with a sentence that says where and why."""

from __future__ import annotations

import gzip
import lzma
from pathlib import Path

import pytest

from unstale.cli.plan import trace_plan
from unstale.cli.trace import Trace, read_trace
from unstale.errors import UsageError

TEXT = "time,op,key,size\n0,get,a,10\n0.5,set,b,0\n1,get,a,10\n2,get,b,7\n"
TAGGED = "time,op,key,size,tag\n0,get,t1:0,0,t1\n1,get,t1:1,0,t1\n2,set,t1:0,0,t1\n3,get,free,0,\n"


def written(folder: Path, text: str, name: str = "trace.csv") -> Path:
    """Write a trace, compressed as its name says."""
    path, data = folder / name, text.encode()
    packed = {".gz": gzip.compress(data), ".xz": lzma.compress(data)}
    path.write_bytes(packed.get(path.suffix, data))
    return path


@pytest.mark.parametrize("name", ["trace.csv", "trace.csv.gz", "trace.csv.xz"])
def test_reads_plain_and_compressed(name: str, tmp_path: Path) -> None:
    """A trace reads the same plain, gzipped and xz-compressed; a change is the complement of its object."""
    trace = read_trace(written(tmp_path, TEXT, name))
    assert trace.keys == trace.objects == ["a", "b"]
    assert list(trace.requests) == [0, ~1, 0, 1]
    assert list(trace.sizes) == [10, 0]
    assert (trace.writes, trace.tagged) == (1, False)


def test_tags_are_objects(tmp_path: Path) -> None:
    """Keys of one tag are one object; a key without one is its own."""
    trace = read_trace(written(tmp_path, TAGGED))
    assert trace.keys == ["t1:0", "t1:1", "free"]
    assert trace.objects == ["t1", "free"]
    assert list(trace.object_of) == [0, 0, 1]
    assert list(trace.requests) == [0, 1, ~0, 2]
    assert trace.tagged


def test_columns_may_stand_in_any_order(tmp_path: Path) -> None:
    """The header says which column is which; empty lines, a byte order mark and quotes are no harm."""
    trace = read_trace(written(tmp_path, '\ufeffop,size,time,key\nget,1,0,"a,b"\n\nset,2,1,c\n'))
    assert trace.keys == ["a,b", "c"]
    assert list(trace.requests) == [0, ~1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: the columns time, op, key, size are missing; found: nothing"),
        ("time,op,key\n0,get,a\n", "line 1: the columns size are missing; found: time,op,key"),
        ("0,get,a,1\n0,get,b,1\n", "line 1: the columns time, op, key, size are missing; found: 0,get,a,1"),
        ("time,op,key,size,colour\n", "line 1: unknown columns: colour"),
        ("time,op,key,size,key\n", "line 1: a column stands there twice"),
        ("time,op,key,size\n", "holds no requests"),
        ("time,op,key,size\n0,get,a,1\n1,put,a,1\n", "line 3: the op 'put' is unknown"),
        ("time,op,key,size\n0,get,a\n", "line 2: 3 columns instead of 4"),
        ("time,op,key,size\n0,get,,1\n", "line 2: the key is empty or very long"),
        (f"time,op,key,size\n0,get,{'k' * 300},1\n", "line 2: the key is empty or very long"),
        (f"time,op,key,size,tag\n0,get,a,1,{'t' * 300}\n", "line 2: the tag is very long"),
        ("time,op,key,size\n0,get,a,-1\n", "line 2: the size '-1' is not a number of bytes"),
        ("time,op,key,size\n0,get,a,1\n0,get,a,x\n", "line 3: the size 'x' is not a number of bytes"),
        ("time,op,key,size\nnan,get,a,1\n", "line 2: the time 'nan' is not a number"),
        ("time,op,key,size\nnow,get,a,1\n", "line 2: the time 'now' is not a number"),
        ("time,op,key,size,tag\n0,get,a,1,t\n1,get,a,1,u\n", "line 3: the key 'a' had another tag before"),
        ('time,op,key,size\n0,get,"a,1\n', "not CSV"),
    ],
)
def test_refuses_what_is_no_trace(text: str, message: str, tmp_path: Path) -> None:
    """Whatever is wrong is refused by its line, with a hint."""
    with pytest.raises(UsageError) as caught:
        read_trace(written(tmp_path, text))
    assert message in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("cut.csv.xz", lzma.compress(TEXT.encode())[:-20], "cannot be decompressed"),
        ("cut.csv.gz", gzip.compress(TEXT.encode())[:-9], "cannot be decompressed"),
        ("plain.csv.xz", TEXT.encode(), "cannot be decompressed"),
        ("plain.csv.gz", TEXT.encode(), "cannot be decompressed"),
        ("packed.csv", lzma.compress(TEXT.encode()), "is not text in UTF-8"),
    ],
)
def test_refuses_damaged_files(name: str, data: bytes, message: str, tmp_path: Path) -> None:
    """A file that is cut off, damaged or named wrongly is refused, and never a traceback."""
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UsageError) as caught:
        read_trace(tmp_path / name)
    assert message in caught.value.message


def test_refuses_what_is_no_file(tmp_path: Path) -> None:
    """A missing file and a folder are told apart."""
    with pytest.raises(UsageError, match="there is no file"):
        read_trace(tmp_path / "nothing.csv")
    with pytest.raises(UsageError, match="is a folder"):
        read_trace(tmp_path)


def many() -> Trace:
    """Give a trace of 5,000 reads, nine of ten of one key."""
    trace = Trace(keys=["hot", "cold"], objects=["hot", "cold"])
    trace.object_of.extend([0, 1])
    trace.sizes.extend([1, 1])
    trace.requests.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 1] * 500)
    return trace


@pytest.mark.parametrize("share", [0.01, 0.2, 0.75])
def test_adds_a_share_of_changes(share: float) -> None:
    """Added changes are about the share asked for; the reads are all there, in their order."""
    trace = many().with_writes(share, seed=1)
    assert trace.writes / len(trace.requests) == pytest.approx(share, rel=0.2)
    assert [request for request in trace.requests if request >= 0] == list(many().requests)


def test_added_changes_come_from_a_seed() -> None:
    """The same seed adds the same changes, another seed others."""
    assert many().with_writes(0.1, 1).requests == many().with_writes(0.1, 1).requests
    assert many().with_writes(0.1, 1).requests != many().with_writes(0.1, 2).requests


def test_what_is_read_often_changes_often() -> None:
    """Changes are drawn from the requests, so they are as skewed as these."""
    requests = many().with_writes(0.3, 1).requests
    assert requests.count(~0) > 5 * requests.count(~1) > 0


def test_requests_are_dealt_out_in_order() -> None:
    """Worker k of n takes the requests k, k + n, k + 2n ..."""
    trace = many()
    plan = trace_plan(trace, 3)
    assert plan.requests == [list(trace.requests[k::3]) for k in range(3)]
    assert sum(map(len, plan.requests)) == len(trace.requests)
