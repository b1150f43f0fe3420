"""What is said to PostgreSQL to read a replication slot by SQL functions."""

from __future__ import annotations

from typing import Final

from unstale.sources.slot_admin import NOTES

STATE: Final = f"""
SELECT pg_current_wal_insert_lsn()::text, pg_current_wal_flush_lsn()::text,
  extract(epoch FROM clock_timestamp())::float8, n.life, n.position::text, s.confirmed_flush_lsn::text,
  s.wal_status, s.plugin, s.database = current_database()
FROM (SELECT) one LEFT JOIN {NOTES} n ON n.name = ? LEFT JOIN pg_replication_slots s ON s.slot_name = ?
"""
# One that was made anew meanwhile may have told what lies beyond its begin: then nothing is noted, and that shows.
NOTE: Final = f"""
UPDATE {NOTES} n SET position = greatest(n.position, ?::pg_lsn) FROM pg_replication_slots s
WHERE n.name = ? AND n.life = ? AND s.slot_name = n.name AND s.confirmed_flush_lsn <= n.position RETURNING 1
"""
MOVE: Final = """
SELECT m.end_lsn::text FROM pg_replication_slots s, pg_replication_slot_advance(s.slot_name, ?::pg_lsn) m
WHERE s.slot_name = ? AND s.confirmed_flush_lsn < ?::pg_lsn
"""
PEEK: Final = (
    "SELECT data FROM pg_logical_slot_peek_binary_changes(?, NULL, ?, 'proto_version', '1', 'publication_names', ?)"
)
# The last column is written, and waits for the standbys where such are named: a primary that is cut off from them, and
# may have been deposed, says nothing.
TIMELINE: Final = f"""
SELECT (SELECT system_identifier FROM pg_control_system()) || '/'
  || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) || '/'
  || (SELECT oid FROM pg_database WHERE datname = current_database()) || '/' || s.slot_name || '/' || n.life,
  s.confirmed_flush_lsn <= n.position,
  ARRAY(SELECT c.oid::bigint FROM pg_publication_tables t JOIN pg_namespace m ON m.nspname = t.schemaname
    JOIN pg_class c ON c.relnamespace = m.oid AND c.relname = t.tablename
    JOIN pg_publication p ON p.pubname = t.pubname AND p.pubinsert AND p.pubupdate AND p.pubdelete AND p.pubtruncate
    WHERE t.pubname = s.slot_name AND to_jsonb(t) ->> 'rowfilter' IS NULL),
  CASE WHEN current_setting('synchronous_standby_names') <> ''
    THEN set_config('synchronous_commit', 'on', true) || pg_logical_emit_message(true, 'unstale', '')::text END
FROM pg_replication_slots s JOIN {NOTES} n ON n.name = s.slot_name WHERE s.slot_name = ?
"""
