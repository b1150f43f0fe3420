"""The conformance of stores: entries and locks, clause by clause of the port's contract."""

from __future__ import annotations

from unstale.core.ops import Fetched, Item
from unstale.engines.ports import StorePort
from unstale.testing.conformance.suite import EVERY_BYTE, TRICKY_NAMES, InThread, Suite


def values(store: StorePort, *keys: str) -> list[bytes | None]:
    """Give what a store has under keys."""
    return [found.data if isinstance(found, Fetched) else None for found in store.fetch(keys)]


class EntryTests(Suite):
    """Fetching, storing and deleting."""

    def remaining_s(self, key: str, store: StorePort | None = None) -> float:
        """Give how long the store still keeps an entry."""
        (found,) = (store or self.store).fetch((key,))
        assert isinstance(found, Fetched)
        return found.remaining_s

    def put(self, key: str, data: bytes = b"x", ttl_s: float = 60.0) -> None:
        """Store one entry."""
        self.store.store((Item(key, data, ttl_s),))

    def test_it_declares_to_be_a_store(self) -> None:
        """An engine with this port says so, and says something of each guarantee."""
        guarantees = self.store.guarantees
        assert guarantees.store
        assert guarantees.name
        assert all((guarantees.processes, guarantees.durable, guarantees.keeps_marks))
        assert all(hasattr(self.store, name) for name in guarantees.quick)

    def test_what_was_stored_is_fetched(self) -> None:
        """Bytes come back as they were stored."""
        self.put("k", b"value")
        assert values(self.store, "k") == [b"value"]

    def test_what_was_never_stored_is_none(self) -> None:
        """A missing entry is None."""
        assert self.store.fetch(("missing",)) == (None,)

    def test_values_are_any_bytes(self) -> None:
        """No byte, no length and no look-alike of text or numbers is changed on the way."""
        data = [
            EVERY_BYTE,
            b"",
            b"\0",
            b"\0\0x\0",
            b"\xff" * 3,
            b"1",
            b"1.50",
            b"null",
            b" x ",
            b"\r\n",
            "\u00e9".encode(),
        ]
        self.store.store(tuple(Item(f"k{number}", one, 60.0) for number, one in enumerate(data)))
        assert values(self.store, *(f"k{number}" for number in range(len(data)))) == data

    def test_values_may_be_large(self) -> None:
        """Two megabytes are stored and fetched whole."""
        data = EVERY_BYTE * 8192
        self.put("large", data)
        assert values(self.store, "large") == [data]

    def test_h29_keys_are_compared_exactly(self) -> None:
        """Keys that look alike, or hold what a server may take for syntax, are different keys."""
        self.store.store(tuple(Item(key, key.encode(), 60.0) for key in TRICKY_NAMES))
        assert values(self.store, *TRICKY_NAMES) == [key.encode() for key in TRICKY_NAMES]
        self.store.delete(("a", "*", "%"))
        kept = [key for key in TRICKY_NAMES if key not in {"a", "*", "%"}]
        assert values(self.store, *kept) == [key.encode() for key in kept]

    def test_storing_replaces(self) -> None:
        """A value stored under a key that has one replaces it, however long it is."""
        for data in (b"a long value", b"short", b"", b"a long value again"):
            self.put("k", data)
            assert values(self.store, "k") == [data]

    def test_the_last_of_one_batch_stays(self) -> None:
        """Of two items for one key in one batch, the later one stays."""
        self.store.store((Item("k", b"first", 60.0), Item("other", b"x", 60.0), Item("k", b"last", 60.0)))
        assert values(self.store, "k", "other") == [b"last", b"x"]

    def test_a_lifetime_remains(self) -> None:
        """What remains of a lifetime is above nothing and at most the time to live."""
        self.put("k", ttl_s=60.0)
        assert 0 < self.remaining_s("k") <= 60.0 + self.slack_s

    def test_storing_replaces_the_lifetime(self) -> None:
        """A value that replaces another has its own lifetime, be it longer or shorter."""
        for ttl_s in (60.0, 600.0, 30.0):
            self.put("k", ttl_s=ttl_s)
            assert ttl_s / 2 < self.remaining_s("k") <= ttl_s + self.slack_s

    def test_hardly_any_lifetime_is_no_error(self) -> None:
        """An entry that is nearly dead may be sent, whatever the resolution of the server's clock."""
        self.put("k", ttl_s=1e-7)
        self.put("long", ttl_s=10 * 365 * 86400.0)
        assert values(self.store, "long") == [b"x"]

    def test_the_remaining_lifetime_decreases(self) -> None:
        """As time passes, less of the lifetime remains."""
        self.put("k", ttl_s=60.0)
        self.advance(20.0)
        assert abs(self.remaining_s("k") - 40.0) <= self.slack_s
        self.advance(39.0)
        assert abs(self.remaining_s("k") - 1.0) <= self.slack_s

    def test_h22_the_remaining_lifetime_is_the_stores_own(self) -> None:
        """Fetching prolongs nothing, and another handle is told the same."""
        self.put("k", ttl_s=60.0)
        self.advance(20.0)
        assert self.remaining_s("k") > 0
        self.advance(20.0)
        assert abs(self.remaining_s("k", self.other_store) - 20.0) <= self.slack_s
        assert abs(self.remaining_s("k") - self.remaining_s("k", self.other_store)) <= self.slack_s

    def test_what_has_expired_is_none(self) -> None:
        """After its time to live an entry is not there any more; others are."""
        self.put("short", ttl_s=5.0)
        self.put("long", ttl_s=50.0)
        self.advance(6.0)
        assert values(self.store, "short", "long") == [None, b"x"]
        self.advance(45.0)
        assert values(self.store, "short", "long") == [None, None]

    def test_what_has_expired_can_be_stored_again(self) -> None:
        """An expired entry leaves nothing behind that shortens the life of its successor."""
        self.put("k", b"old", ttl_s=5.0)
        self.advance(6.0)
        self.put("k", b"new", ttl_s=60.0)
        self.advance(50.0)
        assert values(self.store, "k") == [b"new"]

    def test_answers_come_in_the_order_of_the_keys(self) -> None:
        """Whatever the order of the keys, whether they are there, and asked for twice: each has its answer."""
        self.store.store(tuple(Item(key, key.encode(), 60.0) for key in "cab"))
        asked = ("b", "missing", "a", "b", "c", "missing", "a")
        assert values(self.store, *asked) == [b"b", None, b"a", b"b", b"c", None, b"a"]

    def test_no_keys_are_no_error(self) -> None:
        """Nothing asked for, stored or deleted is nothing done."""
        assert self.store.fetch(()) == ()
        self.store.store(())
        self.store.delete(())

    def test_many_keys_at_once(self) -> None:
        """Thousands of keys are stored, fetched and deleted at once."""
        keys = tuple(f"key:{number}" for number in range(5000))
        self.store.store(tuple(Item(key, key.encode(), 60.0) for key in keys))
        assert values(self.store, *keys) == [key.encode() for key in keys]
        self.store.delete(keys[:4000])
        assert values(self.store, *keys) == [None] * 4000 + [key.encode() for key in keys[4000:]]

    def test_what_was_deleted_is_none(self) -> None:
        """A deleted entry is gone, another is not, and a key without an entry may be deleted."""
        self.put("k")
        self.put("other")
        self.store.delete(("k", "missing"))
        assert values(self.store, "k", "other") == [None, b"x"]
        self.put("k", b"again")
        assert values(self.store, "k") == [b"again"]

    def test_another_handle_sees_the_same_entries(self) -> None:
        """What one process stores, replaces or deletes is stored, replaced or deleted for all."""
        self.put("k", b"first")
        assert values(self.other_store, "k") == [b"first"]
        self.other_store.store((Item("k", b"second", 60.0),))
        assert values(self.store, "k") == [b"second"]
        self.store.delete(("k",))
        assert values(self.other_store, "k") == [None]

    def test_h15_a_value_is_never_torn(self) -> None:
        """While others replace it, a reader finds one of the values that were stored, whole."""
        whole = {letter * 20_000 for letter in (b"a", b"b", b"c")}

        def write() -> int:
            for _ in range(20):
                self.store.store(tuple(Item("k", data, 60.0) for data in whole))
            return 0

        self.put("k", b"a" * 20_000)
        writer, reader = InThread(write), self.other_store
        assert {values(reader, "k")[0] for _ in range(50)} <= whole
        writer.result(int)

    def test_closing_twice_is_no_error(self) -> None:
        """An engine may be closed again, and another handle works on."""
        self.put("k")
        other = self.other_store
        self.store.close()
        self.store.close()
        if other is not self.store:
            assert values(other, "k") == [b"x"]


class LockTests(Suite):
    """Locks that keep processes from loading the same key at once."""

    def test_one_alone_has_a_lock(self) -> None:
        """As long as one has a lock, nobody else gets it, through no handle."""
        assert self.store.lock("k", 60.0) is not None
        assert self.store.lock("k", 60.0) is None
        assert self.other_store.lock("k", 60.0) is None

    def test_locks_of_other_keys_are_others(self) -> None:
        """Each key has its own lock, and it is no entry."""
        taken = [self.store.lock(key, 60.0) for key in TRICKY_NAMES]
        assert None not in taken
        assert self.store.fetch(TRICKY_NAMES) == (None,) * len(TRICKY_NAMES)
        self.store.store((Item("a", b"x", 60.0),))
        self.store.delete(("a",))
        assert self.store.lock("a", 60.0) is None

    def test_a_released_lock_is_free(self) -> None:
        """Whoever has a lock may release it, through any handle; the next one gets a larger token."""
        tokens = []
        for store in (self.store, self.other_store, self.store):
            token = store.lock("k", 60.0)
            assert token is not None
            tokens.append(token)
            self.other_store.unlock("k", token)
        assert tokens == sorted(set(tokens))

    def test_h24_a_lock_expires(self) -> None:
        """The lock of a process that died is free after its time, and the next token is larger."""
        first = self.store.lock("k", 10.0)
        self.advance(9.0)
        assert self.other_store.lock("k", 10.0) is None
        self.advance(2.0)
        second = self.other_store.lock("k", 10.0)
        assert first is not None
        assert second is not None
        assert second > first

    def test_only_its_holder_releases_a_lock(self) -> None:
        """Whoever comes late with the token of a lock that has expired does not release its successor."""
        first = self.store.lock("k", 10.0)
        assert first is not None
        self.advance(11.0)
        second = self.other_store.lock("k", 60.0)
        assert second is not None
        self.store.unlock("k", first)
        assert self.store.lock("k", 60.0) is None
        self.store.unlock("k", second)
        assert self.store.lock("k", 60.0) is not None

    def test_a_wrong_token_releases_nothing(self) -> None:
        """A token that is not the holder's, or of no lock at all, is no error and changes nothing."""
        token = self.store.lock("k", 60.0)
        assert token is not None
        self.store.unlock("k", token + 1)
        self.store.unlock("k", token - 1)
        self.store.unlock("free", token)
        assert self.store.lock("k", 60.0) is None
        self.store.unlock("k", token)
        self.store.unlock("k", token)

    def test_h25_of_many_threads_one_gets_the_lock(self) -> None:
        """However many ask at once, one alone gets it."""
        stores = (self.store, self.other_store) * 4
        for number in range(10):
            calls = [InThread(lambda s=store, k=f"k{number}": (s.lock(k, 60.0),)) for store in stores]  # type: ignore[misc]
            tokens = [call.result(tuple)[0] for call in calls]
            assert len([token for token in tokens if token is not None]) == 1
