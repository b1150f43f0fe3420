"""What a database of the PostgreSQL engine holds: tables and functions in one schema, made by whoever comes first.

All caches of one schema share its tables: each has a row in `cache`, whose number begins the key of every other table.
What must survive a crash of the server (the counter row, the log, the marks) is logged. Members, their list and locks
are not: a crash empties them, and then the list is a young one, for which waiting invalidations wait their full time
(H36). Texts are kept as bytes: no encoding or collation of the database can change or refuse one.

A generation belongs to one place: a server (its system identifier), a timeline of it, which each promotion and each
recovery to a point in time changes, and a database. Every answer compares the place it comes from with the one that the
row names (H10). `by` is the transaction that wrote the row last: a row that a restored dump has brought names another
one than the server itself does, in `xmin`.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from unstale.engines.postgres_errors import NOT_OURS, OTHER_FORMAT
from unstale.engines.postgres_wire import Statement

FORMAT: Final = 1
TABLES: Final = ("cache", "log", "mark", "entry", "member", "list", "lock")
SWEEP_ROWS: Final = 64  # marks and records that one append removes beyond what it adds
MARK_STEPS: Final = 1024
FUNCTIONS: Final = ("place_1", "identify_1", "append_1", "renew_1")
WHOLE: Final = " AND ".join(
    (
        *(f"to_regclass('{{s}}.{table}') IS NOT NULL" for table in (*TABLES, "token")),
        *(f"to_regproc('{{s}}.{function}') IS NOT NULL" for function in FUNCTIONS),
    )
)
TAKEN: Final = " OR ".join(f"to_regclass('{{s}}.{table}') IS NOT NULL" for table in TABLES)

# Not pg_control_checkpoint(), whose timeline lags behind a promotion until the next checkpoint.
PLACE: Final = """
CREATE OR REPLACE FUNCTION {s}.place_1() RETURNS text LANGUAGE sql STABLE AS $f$
  SELECT CASE WHEN pg_is_in_recovery() THEN 'recovery' ELSE
    (SELECT system_identifier FROM pg_control_system()) || '/' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)
    || '/' || (SELECT oid FROM pg_database WHERE datname = current_database()) END
$f$;
"""

# Finds a cache and locks its row, so that appends are one after the other (H21), or begins its first generation; or
# another one, if the server, its timeline or the row is not the one of before (H10): the log, its positions and the
# marks go on, since what was stamped in one generation is never compared with those of another.
IDENTIFY: Final = """
CREATE OR REPLACE FUNCTION {s}.identify_1(_name bytea, _fresh bytea, _max_ttl float8) RETURNS {s}.cache
LANGUAGE plpgsql AS $f$
DECLARE
  c {s}.cache;
  here text := {s}.place_1();
  own boolean;
BEGIN
  -- What is acknowledged must be on the disk, and on a synchronous standby if there is one.
  IF current_setting('synchronous_commit') IN ('off', 'local') THEN
    PERFORM set_config('synchronous_commit', 'on', true);
  END IF;
  SELECT * INTO c FROM {s}.cache t WHERE t.name = _name FOR UPDATE;
  IF NOT FOUND THEN
    INSERT INTO {s}.cache (name, generation, place, max_ttl) VALUES (_name, _fresh, here, _max_ttl)
      ON CONFLICT (name) DO NOTHING;
    SELECT * INTO STRICT c FROM {s}.cache t WHERE t.name = _name FOR UPDATE;
  END IF;
  SELECT t.xmin = t.by::xid INTO own FROM {s}.cache t WHERE t.id = c.id;
  IF c.place <> here OR NOT own THEN
    UPDATE {s}.cache t SET generation = _fresh, place = here, by = pg_current_xact_id() WHERE t.id = c.id
      RETURNING * INTO c;
    DELETE FROM {s}.member m WHERE m.cache = c.id;
    DELETE FROM {s}.list l WHERE l.cache = c.id;
  END IF;
  IF c.max_ttl < _max_ttl THEN
    UPDATE {s}.cache t SET max_ttl = _max_ttl, by = pg_current_xact_id() WHERE t.id = c.id RETURNING * INTO c;
  END IF;
  RETURN c;
END $f$;
"""

# Positions, records, marks and the counter in one transaction. A mark has the four fields of a severity twice, see
# `core.marks`: the rules there are those of the two CASEs here. No mark is missing before its time by any clock: those
# that are forgotten, for their age by the server's clock or for their number, raise `marks_from`, and what lies below
# that is not judged but a miss. 1. a mark is raised at 10 2. the server's clock steps forward by a month 3. the mark is
# swept 4. an entry stamped 9 is found: it lies below `marks_from`, 11 (H22, H35).
APPEND: Final = """
CREATE OR REPLACE FUNCTION {s}.append_1(
  _name bytea, _fresh bytea, _max_ttl float8, _records_max bigint, _marks_max bigint, _channel text,
  _ids bytea[], _datas bytea[], _soft boolean[], _versions bigint[], _timelines bytea[], _counts int[], _scopes bytea[],
  OUT _generation bytea, OUT _head bigint, OUT _head_id bytea, OUT _pulsed boolean, OUT _positions bigint[],
  OUT _prevs bytea[]
) LANGUAGE plpgsql AS $f$
DECLARE
  c {s}.cache := {s}.identify_1(_name, _fresh, _max_ttl);
  _now float8 := extract(epoch FROM clock_timestamp());
  _step float8 := c.max_ttl / {steps};
  -- Rounded up, so that raising a busy mark again leaves the index of these moments alone.
  _expires bigint := ceil((floor(_now / _step) + 1) * _step + 2 * c.max_ttl);
  _marks bigint := c.marks;
  _at int := 0;
  _surplus bigint;
  _forgotten bigint;
  _known record;
  _v bigint;
  _t bytea;
BEGIN
  _generation := c.generation; _head := c.head; _head_id := c.head_id;
  _pulsed := current_setting('synchronous_standby_names') <> '';
  _positions := '{{}}'; _prevs := '{{}}';
  FOR i IN 1 .. cardinality(_ids) LOOP
    INSERT INTO {s}.log (cache, position, id, prev, data)
      VALUES (c.id, _head + 1, _ids[i], _head_id, _datas[i]) ON CONFLICT (cache, id) DO NOTHING;
    IF FOUND THEN
      _head := _head + 1;
      _positions := _positions || _head; _prevs := array_append(_prevs, _head_id);
      _head_id := _ids[i]; _v := _versions[i]; _t := _timelines[i];
      WITH raised AS (
        INSERT INTO {s}.mark AS m (cache, scope, expires, hl, hp, hv, ht, sl, sp, sv, st)
        SELECT c.id, s.scope, _expires,
          CASE WHEN _soft[i] THEN 0 ELSE _head END, CASE WHEN _soft[i] OR _v IS NOT NULL THEN 0 ELSE _head END,
          CASE WHEN _soft[i] THEN NULL ELSE _v END, CASE WHEN _soft[i] THEN '' ELSE _t END,
          CASE WHEN _soft[i] THEN _head ELSE 0 END, CASE WHEN _soft[i] AND _v IS NULL THEN _head ELSE 0 END,
          CASE WHEN _soft[i] THEN _v END, CASE WHEN _soft[i] THEN _t ELSE '' END
        FROM unnest(_scopes[_at + 1 : _at + _counts[i]]) s (scope)
        ON CONFLICT (cache, scope) DO UPDATE SET expires = greatest(m.expires, excluded.expires),
          hl = greatest(m.hl, excluded.hl),
          hp = CASE WHEN excluded.hv IS NULL THEN greatest(m.hp, excluded.hp)
            WHEN m.hv IS NULL OR m.ht = excluded.ht THEN m.hp ELSE greatest(m.hp, m.hl) END,
          hv = CASE WHEN excluded.hv IS NULL THEN m.hv
            WHEN m.hv IS NULL OR m.ht = excluded.ht THEN greatest(m.hv, excluded.hv) ELSE excluded.hv END,
          ht = CASE WHEN excluded.hv IS NULL THEN m.ht ELSE excluded.ht END,
          sl = greatest(m.sl, excluded.sl),
          sp = CASE WHEN excluded.sv IS NULL THEN greatest(m.sp, excluded.sp)
            WHEN m.sv IS NULL OR m.st = excluded.st THEN m.sp ELSE greatest(m.sp, m.sl) END,
          sv = CASE WHEN excluded.sv IS NULL THEN m.sv
            WHEN m.sv IS NULL OR m.st = excluded.st THEN greatest(m.sv, excluded.sv) ELSE excluded.sv END,
          st = CASE WHEN excluded.sv IS NULL THEN m.st ELSE excluded.st END
        RETURNING xmax = 0 AS added
      ) SELECT _marks + count(*) FILTER (WHERE added) INTO _marks FROM raised;
    ELSE  -- repeated, or named twice
      SELECT l.position, l.prev INTO STRICT _known FROM {s}.log l WHERE l.cache = c.id AND l.id = _ids[i];
      _positions := _positions || _known.position; _prevs := array_append(_prevs, _known.prev);
    END IF;
    _at := _at + _counts[i];
  END LOOP;
  IF _head = c.head THEN
    RETURN;
  END IF;
  IF _head / 16 > c.head / 16 THEN  -- the rest of the work, for one append in 16
    WITH old AS (
      SELECT m.scope FROM {s}.mark m WHERE m.cache = c.id AND (_marks > _marks_max OR m.expires < _now)
      ORDER BY m.expires LIMIT greatest(0, _marks - _marks_max) + {sweep}
    ), gone AS (
      DELETE FROM {s}.mark m USING old WHERE m.cache = c.id AND m.scope = old.scope RETURNING greatest(m.hl, m.sl) AS l
    ) SELECT count(*), max(l) INTO _surplus, _forgotten FROM gone;
    _marks := _marks - _surplus;
    DELETE FROM {s}.log l WHERE l.cache = c.id AND l.position <= _head - _records_max;
  END IF;
  UPDATE {s}.cache t SET head = _head, head_id = _head_id, marks = _marks,
    marks_from = greatest(t.marks_from, _forgotten + 1), by = pg_current_xact_id() WHERE t.id = c.id;
  PERFORM pg_notify(_channel, '');
END $f$;
"""

RENEW: Final = """
CREATE OR REPLACE FUNCTION {s}.renew_1(
  _name bytea, _fresh bytea, _max_ttl float8, _node bytea, _beat bytea, _generation bytea,
  _applied bigint, _bound float8, _about bytea
) RETURNS boolean LANGUAGE plpgsql AS $f$
DECLARE
  c {s}.cache;
BEGIN
  SELECT * INTO c FROM {s}.cache t WHERE t.name = _name;
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  IF c.bound < _bound THEN  -- known for ever, also when the members are lost: some may hold leases from before
    c := {s}.identify_1(_name, _fresh, _max_ttl);
    UPDATE {s}.cache t SET bound = greatest(t.bound, _bound), by = pg_current_xact_id() WHERE t.id = c.id;
  END IF;
  INSERT INTO {s}.list VALUES (c.id, _fresh) ON CONFLICT DO NOTHING;
  INSERT INTO {s}.member VALUES (c.id, _node, _beat, _generation, _applied, _bound, _about, DEFAULT)
    ON CONFLICT (cache, node) DO UPDATE SET beat = excluded.beat, generation = excluded.generation,
      applied = excluded.applied, bound = excluded.bound, about = excluded.about, at = excluded.at;
  RETURN true;
END $f$;
"""

# One block, and so one transaction, of whoever has the lock: the others find all there.
MAKE: Final = """
DO $make$
DECLARE
  found int;
BEGIN
  PERFORM pg_advisory_xact_lock({lock});
  IF to_regclass('{s}.format') IS NOT NULL THEN
    SELECT version INTO found FROM {s}.format;
    IF found IS DISTINCT FROM {format} THEN
      RAISE EXCEPTION 'format %, and this version needs {format}', found USING ERRCODE = '{other_format}';
    END IF;
    IF {whole} THEN  -- whoever may only use it need not have the right to make it
      RETURN;
    END IF;
  ELSIF {taken} THEN
    RAISE EXCEPTION 'no table {s}.format, but others of ours' USING ERRCODE = '{not_ours}';
  END IF;
  IF to_regnamespace('{s}') IS NULL THEN
    CREATE SCHEMA {s};
  END IF;
  CREATE TABLE IF NOT EXISTS {s}.format (version int NOT NULL);
  IF NOT EXISTS (SELECT FROM {s}.format) THEN
    INSERT INTO {s}.format VALUES ({format});
  END IF;
  CREATE TABLE IF NOT EXISTS {s}.cache (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name bytea NOT NULL UNIQUE, generation bytea NOT NULL,
    place text NOT NULL, by xid8 NOT NULL DEFAULT pg_current_xact_id(),
    head bigint NOT NULL DEFAULT 0, head_id bytea NOT NULL DEFAULT '', bound float8 NOT NULL DEFAULT 0,
    max_ttl float8 NOT NULL, marks bigint NOT NULL DEFAULT 0, marks_from bigint NOT NULL DEFAULT 1,
    covered bytea, covered_from bigint NOT NULL DEFAULT 1, covered_upto bigint NOT NULL DEFAULT 0
  ) WITH (fillfactor = 10);
  CREATE TABLE IF NOT EXISTS {s}.log (
    cache int NOT NULL, position bigint NOT NULL, id bytea NOT NULL, prev bytea NOT NULL, data bytea NOT NULL,
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(), PRIMARY KEY (cache, position), UNIQUE (cache, id));
  CREATE TABLE IF NOT EXISTS {s}.mark (
    cache int NOT NULL, scope bytea NOT NULL, expires bigint NOT NULL,
    hl bigint NOT NULL, hp bigint NOT NULL, hv bigint, ht bytea NOT NULL,
    sl bigint NOT NULL, sp bigint NOT NULL, sv bigint, st bytea NOT NULL, PRIMARY KEY (cache, scope)
  ) WITH (fillfactor = 70);
  CREATE INDEX IF NOT EXISTS mark_expires ON {s}.mark (cache, expires);
  CREATE {unlogged} TABLE IF NOT EXISTS {s}.entry (
    cache int NOT NULL, key bytea NOT NULL, until timestamptz NOT NULL, data bytea NOT NULL, PRIMARY KEY (cache, key));
  CREATE INDEX IF NOT EXISTS entry_until ON {s}.entry (until);
  CREATE UNLOGGED TABLE IF NOT EXISTS {s}.member (
    cache int NOT NULL, node bytea NOT NULL, beat bytea NOT NULL, generation bytea NOT NULL, applied bigint NOT NULL,
    bound float8 NOT NULL, about bytea NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp(),  -- for people only
    PRIMARY KEY (cache, node)) WITH (fillfactor = 50);
  CREATE UNLOGGED TABLE IF NOT EXISTS {s}.list (cache int PRIMARY KEY, id bytea NOT NULL);
  CREATE UNLOGGED TABLE IF NOT EXISTS {s}.lock (
    cache int NOT NULL, key bytea NOT NULL, token bigint NOT NULL, until timestamptz NOT NULL,
    PRIMARY KEY (cache, key)) WITH (fillfactor = 50);
  CREATE SEQUENCE IF NOT EXISTS {s}.token;
{functions}
END $make$
"""


def make(schema: str, *, unlogged: bool) -> Statement:
    """Give the statement that makes all that is missing, and refuses what is not ours."""
    quoted = f'"{schema}"'
    names = {
        "s": quoted, "whole": WHOLE.format(s=quoted),
        "steps": MARK_STEPS, "sweep": SWEEP_ROWS, "format": FORMAT, "other_format": OTHER_FORMAT,
        "not_ours": NOT_OURS, "taken": TAKEN.format(s=quoted), "unlogged": "UNLOGGED" if unlogged else "",
        "lock": int.from_bytes(blake2b(f"unstale {schema}".encode(), digest_size=8).digest(), "big", signed=True),
    }  # fmt: skip
    functions = "".join(one.format(**names) for one in (PLACE, IDENTIFY, APPEND, RENEW))
    return Statement("make", MAKE.format(functions=functions, **names))


def channel(schema: str, name: str) -> str:
    """Give the channel on which appends to a cache notify."""
    return "unstale_" + blake2b(f"{schema}|{name}".encode(), digest_size=16).hexdigest()
