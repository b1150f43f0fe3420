"""What `doctor` finds out about the file of an SQLite cache: its log of writes, permissions, disk, and what it says."""

from __future__ import annotations

import os
import shlex
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from unstale.cli.findings import Finding, ok, size
from unstale.cli.sqlite_look import FileFacts
from unstale.engines.sqlite_schema import SCHEMA_VERSION

NETWORKS: Final = frozenset({"9p", "afs", "ceph", "cifs", "fuse.sshfs", "glusterfs", "nfs", "nfs4", "smb3", "smbfs"})
FREE_BYTES_MIN: Final = 256 * 1024 * 1024
FREE_SHARE_MIN: Final = 0.02
WAL_BYTES_MAX: Final = 64 * 1024 * 1024


def examine_file(path: str) -> Iterator[Finding]:
    """Examine a file from outside. It is a `problem` with the subject `file` if there is nothing more to look at."""
    if not Path(path).is_file():
        yield Finding(
            "problem",
            "file",
            f"{path} {'is not a file' if Path(path).exists() else 'does not exist'}",
            weakens="no process has used this cache since it was there, if ever",
            mend="look at the URL; the first process that uses it makes the file",
        )
        return
    yield ok("file", f"{os.path.abspath(path)}, {size(Path(path).stat().st_size)}")  # noqa: PTH100 - the engine's own way
    yield _wal(path)
    yield from _permissions(path)
    folder = os.path.dirname(os.path.realpath(path))  # noqa: PTH120 - of a resolved name
    yield _disk(folder, shutil.disk_usage(folder).free, shutil.disk_usage(folder).total)
    kind = _file_system(folder)
    if kind:
        yield _network(kind)


def _wal(path: str) -> Finding:
    wal = Path(f"{os.path.realpath(path)}-wal")
    length = wal.stat().st_size if wal.exists() else 0
    if length <= WAL_BYTES_MAX:
        return ok("write-ahead log", size(length))
    return Finding(
        "problem",
        "write-ahead log",
        f"{size(length)}: somebody has kept a transaction open for long",
        weakens="disk space, and the speed of every read",
        mend=f"lsof {shlex.quote(path)}   # then end who holds it",
    )


def _permissions(path: str) -> Iterator[Finding]:
    real = os.path.realpath(path)
    folder = os.path.dirname(real)  # noqa: PTH120 - of a resolved name
    names = [name for name in (real, f"{real}-wal", f"{real}-shm", folder) if Path(name).exists()]
    closed = [name for name in names if not os.access(name, os.R_OK | os.W_OK)]
    mode = Path(real).stat().st_mode
    written = stat.filemode(mode)
    if closed:
        user = os.getuid() if hasattr(os, "getuid") else "USER"
        yield Finding(
            "problem",
            "permissions",
            f"this user may not read and write {', '.join(closed)}",
            weakens="a process of this user cannot invalidate: others serve the old value up to its TTL",
            mend=f"sudo chown {user} {' '.join(map(shlex.quote, closed))}",
        )
    if mode & stat.S_IWOTH:
        yield Finding(
            "problem",
            "permissions",
            f"every user of the machine may write to it ({written})",
            weakens="whoever can write can forge entries and invalidations",
            mend=f"chmod o-w {shlex.quote(path)}*",
        )
    elif mode & stat.S_IROTH:
        yield Finding(
            "note",
            "permissions",
            f"every user of the machine may read it ({written})",
            weakens="what is cached is no secret",
            mend=f"chmod o-r {shlex.quote(path)}*",
        )
    elif not closed:
        yield ok("permissions", written)


def _disk(folder: str, free: int, total: int) -> Finding:
    text = f"{size(free)} free of {size(total)}"
    if free >= min(FREE_BYTES_MIN, FREE_SHARE_MIN * total):
        return ok("disk", text)
    return Finding(
        "problem",
        "disk",
        text,
        weakens="when it is full, nothing can be stored or invalidated (FullError)",
        mend=f"du -xh {shlex.quote(folder)} | sort -h | tail   # then free some space",
    )


def _network(kind: str) -> Finding:
    if kind not in NETWORKS:
        return ok("file system", kind)
    return Finding(
        "problem",
        "file system",
        f"{kind}: it is shared with other machines",
        weakens="a write-ahead log works within one machine only: others would read garbage, or nothing new",
        mend="move the file to a local disk, and change the URL",
    )


def _file_system(folder: str) -> str:
    """Give the kind of file system that a folder lies on, empty where the system does not tell."""
    try:
        lines = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    mounts = [fields[1:3] for fields in map(str.split, lines) if len(fields) > 2]  # noqa: PLR2004 - device, place, kind
    above = [(len(place), kind) for place, kind in mounts if f"{folder}/".startswith(f"{place.rstrip('/')}/")]
    return max(above, default=(0, ""))[1]


def examine_contents(facts: FileFacts, name: str) -> Iterator[Finding]:
    """Examine what a file says of itself."""
    if not facts.ours:
        yield Finding(
            "problem",
            "contents",
            "a database of another program",
            weakens="no process can use the cache",
            mend="name another file in the URL; this one is left as it is",
        )
        return
    if facts.version != SCHEMA_VERSION:
        yield Finding(
            "problem",
            "contents",
            f"format {facts.version}; this version of unstale reads {SCHEMA_VERSION}",
            weakens="processes with different versions cannot share it",
            mend="use one version of unstale everywhere",
        )
        return
    if not facts.same_boot or not facts.same_home:
        why = "is a copy of another one" if facts.same_boot else "was made before the machine started"
        yield Finding(
            "note",
            "contents",
            f"the file {why}: nothing in it will be served",
            weakens="the first process that opens it begins a new file: a cold start",
        )
    if facts.journal != "wal":
        yield Finding(
            "problem",
            "contents",
            f"journal mode {facts.journal}",
            weakens="readers and writers block each other",
            mend="stop all processes that use it, and start them again",
        )
    known = ", ".join(repr(cache.name) for cache in facts.caches) or "none"
    if name in {cache.name for cache in facts.caches}:
        yield ok("cache", f"{name!r}, of these in the file: {known}")
        return
    yield Finding(
        "problem",
        "cache",
        f"there is none named {name!r}; there are: {known}",
        weakens="whoever uses that name shares nothing with the others",
        mend="choose one by --name",
    )
