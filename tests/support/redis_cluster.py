"""A private Redis Cluster: three primaries, without replicas, on this machine alone."""

from __future__ import annotations

from redis.crc import key_slot

from tests.support.ports import HOST
from tests.support.private_server import Ended
from tests.support.redis_servers import START_S, RedisServer
from tests.support.waiting import until

SLOTS = 16_384
NODES = 3
MOVED_AT_ONCE = 100
MOVE_MS = 5000


class RedisCluster(Ended):
    """Three primaries that share the slots evenly, and agree on that before the first test.

    Args:
        config: Lines of every node's configuration; no TLS, for each node has an authority of its own.
    """

    def __init__(self, **config: object) -> None:
        options: dict[str, object] = {"cluster_enabled": True, "cluster_node_timeout": 2000}
        self.nodes: list[RedisServer] = []
        try:
            for _ in range(NODES):
                self.nodes.append(RedisServer(**(options | config)))  # type: ignore[arg-type] # lines of any kind
            self._meet()
        except BaseException:  # a skip too
            self.end()
            raise

    def _meet(self) -> None:
        for number, node in enumerate(self.nodes):
            slots = range(number * SLOTS // NODES, (number + 1) * SLOTS // NODES)
            node.call("CLUSTER", "ADDSLOTS", *slots)
            node.call("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in self.nodes[1:]:
            self.nodes[0].call("CLUSTER", "MEET", HOST, node.port)
        until(self._agreed, START_S)

    def _agreed(self) -> bool:
        """Whether every node is well, and knows the owner of every slot as all the others do."""
        ready = {b"cluster_state:ok", b"cluster_known_nodes:%d" % NODES, b"cluster_slots_ok:%d" % SLOTS}
        if any(ready - set(node.call("CLUSTER", "INFO").split()) for node in self.nodes):
            return False
        first, *others = (self._owners(node) for node in self.nodes)
        return all(first == other for other in others)

    @staticmethod
    def _owners(node: RedisServer) -> dict[tuple[int, int], int]:
        """Give the owner's port of every range of slots, as one node sees it."""
        ranges = sorted(node.call("CLUSTER", "SLOTS"))
        return {(first, last): int(primary[1]) for first, last, primary, *_replicas in ranges}

    @property
    def url(self) -> str:
        """Where it is, for a client: one node is enough to find the others."""
        login = self.nodes[0].url.removeprefix("redis://")
        return f"redis+cluster://{login}"

    def slot_of(self, key: str | bytes) -> int:
        """Give the slot of a key."""
        return key_slot(key.encode() if isinstance(key, str) else key)

    def owner_of(self, key: str | bytes) -> RedisServer:
        """Give the node that has a key."""
        return self.owner_of_slot(self.slot_of(key))

    def owner_of_slot(self, slot: int) -> RedisServer:
        """Give the node that has a slot, as the first node that is up sees it."""
        owners = self._owners(next(node for node in self.nodes if node.role()))
        port = next(port for (first, last), port in owners.items() if first <= slot <= last)
        return next(node for node in self.nodes if node.port == port)

    def open_slot(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        """Begin to move a slot: for a key that is no longer at the source, that answers ASK."""
        target.call("CLUSTER", "SETSLOT", slot, "IMPORTING", self._name(source))
        source.call("CLUSTER", "SETSLOT", slot, "MIGRATING", self._name(target))

    def move_keys(self, slot: int, source: RedisServer, target: RedisServer, at_most: int | None = None) -> int:
        """Move the keys of an open slot, all or some, and give how many went."""
        user, password = target.login
        login = ("AUTH2", user or "default", password) if password else ()
        moved = 0
        while at_most is None or moved < at_most:
            wanted = MOVED_AT_ONCE if at_most is None else min(MOVED_AT_ONCE, at_most - moved)
            keys = source.call("CLUSTER", "GETKEYSINSLOT", slot, wanted)
            if not keys:
                break
            source.call("MIGRATE", HOST, target.port, "", 0, MOVE_MS, *login, "KEYS", *keys)
            moved += len(keys)
        return moved

    def close_slot(self, slot: int, target: RedisServer) -> None:
        """Give an open and empty slot to its new owner, and wait until every node knows."""
        others = [node for node in self.nodes if node is not target]
        for node in (target, *others):
            node.call("CLUSTER", "SETSLOT", slot, "NODE", self._name(target))
        until(self._agreed, START_S)

    def migrate_slot(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        """Move a slot with its keys while the cluster works on."""
        self.open_slot(slot, source, target)
        self.move_keys(slot, source, target)
        self.close_slot(slot, target)

    @staticmethod
    def _name(node: RedisServer) -> str:
        name: bytes = node.call("CLUSTER", "MYID")
        return name.decode()

    def end(self) -> None:
        """End every node."""
        for node in self.nodes:
            node.end()
