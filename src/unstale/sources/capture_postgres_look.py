"""Looks whether the triggers of PostgreSQL are there, whole and enabled, and were all the time."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from unstale.sources.capture_plan import GONE, Captured, Finding
from unstale.sources.capture_postgres import EACH_ROW, OPERATIONS, PREFIX, body_of
from unstale.sources.capture_rows import digest
from unstale.sources.connections import Database

# What is there, for all tables at once. What else changes rows, but fires no trigger, shows in the columns (a rewrite
# by ALTER TABLE) and in the partitions (one that is attached, detached, dropped, or truncated by its own name).
STATE: Final = """SELECT r.spec, r.body, c.oid IS NOT NULL,
  coalesce((SELECT json_agg(json_build_array(t.tgrelid::regclass::text, t.tgname, t.tgenabled, t.tgtype::int,
      t.tgfoid = f.oid AND t.tgqual IS NULL AND t.tgattr::text = '', coalesce(t.tgoldtable::text, ''),
      coalesce(t.tgnewtable::text, ''), t.oid::text || ':' || t.xmin::text) ORDER BY t.tgrelid, t.tgname)
    FROM pg_trigger t
    WHERE t.tgrelid IN (SELECT c.oid UNION ALL SELECT p.relid FROM pg_partition_tree(c.oid) p)
      AND starts_with(t.tgname::text, 'unstale_capture_')), '[]')::text,
  coalesce((SELECT json_agg(json_build_array(a.attname, a.attnum, a.atttypid::bigint, a.xmin::text) ORDER BY a.attnum)
    FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), '[]')::text,
  coalesce((SELECT json_agg(json_build_array(p.relid::regclass::text, p.relid::bigint, p.isleaf,
      pg_relation_filenode(p.relid)::bigint) ORDER BY p.relid) FROM pg_partition_tree(c.oid) p), '[]')::text,
  coalesce(md5(f.prosrc), ''), coalesce(f.prosecdef, false), f.oid::text || ':' || f.xmin::text
FROM {t}_capture r LEFT JOIN pg_class c ON c.oid = to_regclass(r.place)
LEFT JOIN pg_proc f ON f.oid = to_regproc(r.function) ORDER BY r.name"""


class _State(msgspec.Struct, array_like=True, frozen=True):
    spec: str
    body: str
    there: bool
    triggers: str
    columns: str
    partitions: str
    digest: str
    definer: bool
    function: str | None


class _Trigger(msgspec.Struct, array_like=True, frozen=True):
    place: str
    name: str
    enabled: str
    kind: int
    ours: bool
    old: str
    new: str
    life: str


def look(database: Database, outbox: str) -> tuple[list[Captured], list[Finding], str]:
    """Give what is captured, what is wrong with it, and a text that changes with all by which changes may go unseen.

    1. a trigger is disabled 2. rows are changed 3. it is enabled again: all is well, but for the rows. The text is
    another one, since PostgreSQL has written the trigger anew, and the pulses that bear it end everything (H31).

    Raises:
        SourceError: The database failed.
    """
    found = [_State(*row) for row in database.rows(STATE.format(t=outbox))]
    captured = [msgspec.json.decode(state.spec, type=Captured) for state in found]
    findings = [one for table, state in zip(captured, found, strict=True) for one in _wrong(table, state, outbox)]
    seen = [(one.spec, one.triggers, one.columns, _leaves(one), one.function) for one in found]
    return captured, findings, digest(repr(seen))


def _leaves(state: _State) -> list[Any]:
    """Give the partitions; a plain table is its own and only one, and tells by a trigger that it was truncated."""
    tree: list[Any] = msgspec.json.decode(state.partitions)
    return tree if len(tree) > 1 else []


def _wrong(table: Captured, state: _State, outbox: str) -> list[Finding]:
    """Say what is wrong with a table."""
    again = f"unstale capture install DATABASE --tables {table.name}"
    if not state.there:
        gone = f"unstale capture remove DATABASE --tables {table.name}"
        return [Finding(table.name, GONE, gone)]
    findings = []
    triggers = msgspec.json.decode(state.triggers, type=list[_Trigger])
    partitions = [place for place, *_ in msgspec.json.decode(state.partitions)]
    for operation, bit in OPERATIONS.items():
        name = PREFIX + operation
        each = table.rows and operation != "truncate"
        old = "old_rows" if operation in {"update", "delete"} and not table.rows else ""
        new = "new_rows" if operation in {"update", "insert"} and not table.rows else ""
        wanted = (bit | (EACH_ROW if each else 0), True, old, new)
        there = [one for one in triggers if one.name == name]
        places = len(partitions) if each and partitions else 1
        if len(there) < places:
            findings.append(Finding(table.name, f"the trigger {name} is missing", again))
        for one in there:
            if (one.kind, one.ours, one.old, one.new) != wanted:
                findings.append(Finding(table.name, f"the trigger {name} is not the one that was installed", again))
            elif one.enabled != "A":
                what = "is disabled" if one.enabled == "D" else "does not fire ALWAYS"
                mend = f"ALTER TABLE {one.place} ENABLE ALWAYS TRIGGER {name}"
                findings.append(Finding(table.name, f"the trigger {name} of {one.place} {what}", mend))
    if state.digest != state.body or not state.definer:
        findings.append(Finding(table.name, "its function is not the one that was installed", again))
    elif state.body != digest(body_of(table, outbox)):
        findings.append(Finding(table.name, "its triggers are of another version", again, unseen=False))
    return findings


def installed(database: Database, outbox: str) -> bool:
    """Say whether anything was ever captured."""
    return database.rows("SELECT to_regclass(?) IS NOT NULL", (f"{outbox}_capture",)) == [(True,)]
