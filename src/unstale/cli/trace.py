"""Traces: what was read and changed, in order, as a CSV file, plain or compressed.

The columns are `time,op,key,size` and, if it has one, `tag`. A request is one number: the index of the entry that is
read, or, for a change of the truth, the complement (`~`) of the index of the object that changes. The object of an
entry is its tag, or itself where there is none.
"""

from __future__ import annotations

import csv
import gzip
import lzma
import math
import zlib
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final, TextIO

from unstale.errors import UsageError

REQUIRED: Final = ("time", "op", "key", "size")
OPTIONAL: Final = ("tag",)
HEADER: Final = "time,op,key,size[,tag]"
REQUESTS_MAX: Final = 20_000_000
FIELD_CHARS_MAX: Final = 250
SIZE_DIGITS_MAX: Final = 12


@dataclass
class Trace:
    """A trace, with everything named by number.

    Attributes:
        keys: The distinct keys, in the order of their first appearance.
        objects: What changes: tags, and the keys that have none.
        object_of: For each key, the index of its object.
        sizes: For each key, the bytes of its value; 0 is unknown.
        requests: Index of a key that is read, or `~` the index of an object that changes.
        tagged: It has tags.
    """

    keys: list[str] = field(default_factory=list)
    objects: list[str] = field(default_factory=list)
    object_of: array[int] = field(default_factory=lambda: array("l"))
    sizes: array[int] = field(default_factory=lambda: array("q"))
    requests: array[int] = field(default_factory=lambda: array("l"))
    tagged: bool = False

    @property
    def writes(self) -> int:
        """Requests that change the truth."""
        return sum(request < 0 for request in self.requests)

    def with_writes(self, share: float, seed: int) -> Trace:
        """Give this trace with changes added, so that they are about a share of its requests.

        What changes is the object of a request drawn from the whole trace: what is read often changes often.

        Args:
            share: From 0 to 0.9, the part of all requests that shall be added changes.
            seed: The same seed adds the same changes.
        """
        random = Random(seed)
        originals, object_of = self.requests, self.object_of
        requests = array("l")
        per_request = share / (1 - share)
        for request in originals:
            if random.random() < per_request % 1:
                drawn = originals[random.randrange(len(originals))]
                requests.append(drawn if drawn < 0 else ~object_of[drawn])
            for _ in range(int(per_request)):
                drawn = originals[random.randrange(len(originals))]
                requests.append(drawn if drawn < 0 else ~object_of[drawn])
            requests.append(request)
        return Trace(self.keys, self.objects, self.object_of, self.sizes, requests, self.tagged)


def read_trace(path: Path) -> Trace:
    """Read a trace.

    Args:
        path: A CSV file; one that ends in `.gz` or `.xz` is decompressed.

    Raises:
        UsageError: It cannot be read, or is no trace; the message names the line.
    """
    line = 0
    try:
        with _opened(path) as file:
            rows = csv.reader(file, strict=True)
            header = next(rows, [])
            columns = _columns(path, header)
            trace = Trace(tagged="tag" in columns)
            reader = _Reader(path, trace, columns, len(header))
            for row in rows:
                line = rows.line_num
                reader.take(row, line)
    except csv.Error as error:
        msg = f"{path}, line {line + 1}: not CSV: {error}"
        raise UsageError(msg, hint=f"the columns are {HEADER}, separated by commas") from error
    if not trace.requests:
        msg = f"{path} holds no requests"
        raise UsageError(msg, hint="after the header comes one line for each request: 0,get,product:17,512")
    return trace


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """Open a file as text, and say in one sentence why it cannot be read."""
    try:
        with _text(path) as file:
            yield file
    except FileNotFoundError as error:
        msg = f"there is no file {path}"
        raise UsageError(
            msg, hint="give the path of a trace: a CSV file, plain or with .gz or .xz at its end"
        ) from error
    except IsADirectoryError as error:
        msg = f"{path} is a folder"
        raise UsageError(msg, hint="give the path of one trace in it") from error
    except UnicodeDecodeError as error:
        msg = f"{path} is not text in UTF-8"
        raise UsageError(msg, hint="a compressed trace has .gz or .xz at the end of its name") from error
    except (lzma.LZMAError, zlib.error, EOFError, gzip.BadGzipFile) as error:
        msg = f"{path} cannot be decompressed: {error}"
        hint = f"it is damaged, cut off, or not {path.suffix.removeprefix('.')} at all: test it with `{_tester(path)}`"
        raise UsageError(msg, hint=hint) from error
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror or error}"
        raise UsageError(msg, hint="look at the permissions of the file and its folder") from error


def _text(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    if path.suffix == ".xz":
        return lzma.open(path, "rt", encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")


def _tester(path: Path) -> str:
    return f"{'xz' if path.suffix == '.xz' else 'gzip'} --test {path}"


def _columns(path: Path, header: list[str]) -> dict[str, int]:
    names = [name.strip().lower().removeprefix("\ufeff") for name in header]
    missing = [name for name in REQUIRED if name not in names]
    unknown = [name for name in names if name not in REQUIRED + OPTIONAL]
    if missing or unknown or len(set(names)) < len(names):
        found = ",".join(header)[:80] or "nothing"
        wrong = (
            f"the columns {', '.join(missing)} are missing"
            if missing
            else f"unknown columns: {', '.join(unknown)}"
            if unknown
            else "a column stands there twice"
        )
        msg = f"{path}, line 1: {wrong}; found: {found}"
        raise UsageError(msg, hint=f"the first line names the columns: {HEADER}")
    return {name: names.index(name) for name in names}


class _Reader:
    """Takes one row after the other into a trace."""

    def __init__(self, path: Path, trace: Trace, columns: dict[str, int], width: int) -> None:
        self._path = path
        self._trace = trace
        self._width = width
        self._time, self._op, self._key, self._size = (columns[name] for name in REQUIRED)
        self._tag = columns.get("tag")
        self._keys: dict[str, int] = {}
        self._objects: dict[str, int] = {}

    def take(self, row: list[str], line: int) -> None:
        """Take a row in.

        Raises:
            UsageError: It is none.
        """
        trace = self._trace
        if not row:
            return
        if len(row) != self._width:
            self._refuse(line, f"{len(row)} columns instead of {self._width}", f"the columns are {HEADER}")
        op, key = row[self._op], row[self._key]
        if op not in {"get", "set"}:
            self._refuse(line, f"the op {op[:40]!r} is unknown", "write get for a read, set for a change of the truth")
        if not key or len(key) > FIELD_CHARS_MAX:
            self._refuse(line, "the key is empty or very long", f"a key has 1 to {FIELD_CHARS_MAX} characters")
        self._check_time(row[self._time], line)
        index = self._index(row, key, line)
        if len(trace.requests) >= REQUESTS_MAX:
            self._refuse(line, f"more than {REQUESTS_MAX:,} requests", "cut the trace into parts")
        trace.requests.append(index if op == "get" else ~trace.object_of[index])

    def _check_time(self, text: str, line: int) -> None:
        try:
            known = math.isfinite(float(text))
        except ValueError:
            known = False
        if not known:
            self._refuse(line, f"the time {text[:40]!r} is not a number", "write seconds, or count the requests")

    def _index(self, row: list[str], key: str, line: int) -> int:
        """Give the index of a row's key, taking it in if it is new; each row must name the same tag for it."""
        trace = self._trace
        tag = row[self._tag] if self._tag is not None else ""
        size = row[self._size]
        if not (size.isascii() and size.isdigit()) or len(size) > SIZE_DIGITS_MAX:
            self._refuse(
                line, f"the size {size[:40]!r} is not a number of bytes", "write a whole number, 0 for unknown"
            )
        index = self._keys.get(key)
        if index is not None:
            if trace.objects[trace.object_of[index]] != (tag or key):
                self._refuse(line, f"the key {key[:40]!r} had another tag before", "a key has one tag in a whole trace")
            return index
        name = tag or key
        if len(name) > FIELD_CHARS_MAX:
            self._refuse(line, "the tag is very long", f"a tag has at most {FIELD_CHARS_MAX} characters")
        number = self._objects.setdefault(name, len(trace.objects))
        if number == len(trace.objects):
            trace.objects.append(name)
        index = self._keys[key] = len(trace.keys)
        trace.keys.append(key)
        trace.object_of.append(number)
        trace.sizes.append(int(size))
        return index

    def _refuse(self, line: int, what: str, hint: str) -> None:
        msg = f"{self._path}, line {line}: {what}"
        raise UsageError(msg, hint=hint, line=line)
