"""What can go wrong in the simulated world."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from unstale.core.tail import tail
from unstale.engines.memory import MemoryServer
from unstale.testing.world import CrashedError, Process, Server

if TYPE_CHECKING:
    from unstale.testing.simulator import Simulator


def partition(sim: Simulator) -> None:
    """Cut a node off from a port, or from both, for a while."""
    process = sim.rng.choice(sim.living())
    links = sim.rng.choice([("log",), ("store",), ("log", "store")])
    sim.world.say(f"{process.name} is cut off from {' and '.join(links)}")
    for name in links:
        process.links[name].cut = True

    def mend() -> None:
        for name in links:
            process.links[name].cut = False

    sim.world.after(sim.rng.uniform(0.5, 6.0), mend)


def partition_log(sim: Simulator) -> None:
    """Cut a node off from the log alone, for long."""
    link = sim.rng.choice(sim.living()).links["log"]
    link.cut = True
    sim.world.after(sim.rng.uniform(3.0, 12.0), lambda: setattr(link, "cut", False))


def partition_store(sim: Simulator) -> None:
    """Cut everyone off from the store: the marks of what is applied meanwhile are late."""
    links = [process.links["store"] for process in sim.living()]
    for link in links:
        link.cut = True

    def mend() -> None:
        for link in links:
            link.cut = False

    sim.world.after(sim.rng.uniform(1.0, 4.0), mend)


def garble(sim: Simulator) -> None:
    """Damage stored entries."""
    entries = sim.store.state.entries
    for key, (data, until) in list(entries.items()):
        place = sim.rng.randrange(len(data))
        entries[key] = (data[:place] + bytes([data[place] ^ 0x41]) + data[place + 1 :], until)


def swap(sim: Simulator) -> None:
    """Put the entry of one key under another key."""
    entries = sim.store.state.entries
    if len(entries) > 1:
        one, other = sim.rng.sample(sorted(entries), 2)
        entries[one] = entries[other]


def scramble(sim: Simulator) -> None:
    """Deliver records twice, in another order, or not at all, for a while."""
    sim.world.scrambled = 0.5
    sim.world.after(sim.rng.uniform(1.0, 4.0), lambda: setattr(sim.world, "scrambled", 0.0))


def lose_members(sim: Simulator) -> None:
    """Lose the list of members; the log is what it was."""
    sim.world.say("the members are lost")
    sim.log.state.members.clear()
    sim.log.state.members_since = sim.world.now


def restore(sim: Simulator) -> None:
    """Restore the source from a backup."""
    if sim.outbox is None:
        return
    sim.world.say("the source is restored")
    sim.outbox.restore()
    sim.truth.restore(sim.world.now)


def loss(sim: Simulator) -> None:
    """Lose requests of a node, and replies of everyone, for a while."""
    process = sim.rng.choice(sim.living())
    for link in process.links.values():
        link.lossy = 0.4
    sim.world.lost_replies = 0.2

    def mend() -> None:
        sim.world.lost_replies = 0.0
        for link in process.links.values():
            link.lossy = 0.0

    sim.world.after(sim.rng.uniform(0.5, 3.0), mend)


def delay(sim: Simulator) -> None:
    """Make one link slow: answers come late, after the node has given up, and in another order."""
    link = sim.rng.choice(sim.living()).links[sim.rng.choice(["store", "log"])]
    link.delay_s = sim.rng.choice([0.1, 0.3, 1.0])
    sim.world.after(sim.rng.uniform(0.5, 4.0), lambda: setattr(link, "delay_s", 0.01))


def slow_store(sim: Simulator) -> None:
    """Make the store slow for everyone, so that records are applied while its replies travel."""
    for process in sim.living():
        link = process.links["store"]
        link.delay_s = sim.rng.choice([0.1, 0.2])
    sim.world.after(sim.rng.uniform(2.0, 6.0), lambda: _mend_store(sim))


def _mend_store(sim: Simulator) -> None:
    for process in sim.world.processes:
        process.links["store"].delay_s = 0.01


def duplicate(sim: Simulator) -> None:
    """Carry out appends and fills twice, the second time up to three seconds later."""
    sim.world.duplicates = 0.3
    sim.world.after(sim.rng.uniform(1.0, 5.0), lambda: setattr(sim.world, "duplicates", 0.0))


def pause(sim: Simulator) -> None:
    """Suspend a process: its clock goes on, nothing else does (SIGSTOP, a laptop's lid, a VM's migration)."""
    process = sim.rng.choice(sim.living())
    if process.paused:
        return
    process.pause()
    sim.world.say(f"{process.name} is suspended")

    def wake() -> None:
        sim.world.say(f"{process.name} wakes")
        if process.paused:
            process.resume()

    sim.world.after(sim.rng.choice([0.3, 1.0, 3.0, 6.0]), wake)


def crash(sim: Simulator, process: Process | None = None) -> None:
    """Kill a process, and start another in its place."""
    victim = sim.rng.choice(sim.living()) if process is None else process
    if process is None and (victim is getattr(sim, "relay", None) or len(sim.living()) < 3):
        return
    sim.world.say(f"{victim.name} is killed")
    victim.dead = True
    victim.paused = False
    for task in sim.world.tasks:
        if task.process is victim and not task.done:
            task.token += 1
            sim.world.step(task, error=CrashedError())
    if process is None:
        sim.world.after(sim.rng.random() * 2, lambda: None if sim.healed else _join(sim))


def _join(sim: Simulator) -> None:
    sim.new_process()


def join(sim: Simulator) -> None:
    """Let one more node join, whose store is full of entries from before it was born."""
    if len(sim.living()) < 6:
        sim.new_process()


def trim(sim: Simulator) -> None:
    """Trim the log to its last records, or to none."""
    sim.world.say("the log is trimmed")
    sim.log.state.trim(sim.rng.choice([0, 0, 1, 2]))


def wipe_log(sim: Simulator) -> None:
    """Wipe the log: a new generation. With one engine the entries may survive it, or not."""
    sim.world.say("the log is wiped")
    state = sim.log.state
    state.begin(f"g{sim.world.new_id()}")
    if sim.one_engine and sim.rng.random() < 0.5:
        state.entries.clear()
    sim.log.notify()


def wipe_store(sim: Simulator) -> None:
    """Wipe the store of a two-engine cache: entries and marks are gone, the log knows nothing of it."""
    if sim.one_engine:
        return
    sim.world.say("the store is wiped")
    state = sim.store.state
    state.entries.clear()
    state.marks.clear()
    state.covered = None


def evict_marks(sim: Simulator) -> None:
    """Evict some marks under memory pressure; the store knows that it did."""
    state = sim.store.state
    for scope in list(state.marks):
        if sim.rng.random() < 0.5:
            del state.marks[scope]
    state.certain = False


def wipe_marks(sim: Simulator) -> None:
    """Wipe the marks of a two-engine cache; the entries stay."""
    if not sim.one_engine:
        sim.store.state.marks.clear()
        sim.store.state.covered = None


def outage(sim: Simulator) -> None:
    """Stop a server for a while; it comes back as it was."""
    server = sim.rng.choice([sim.log, sim.store])
    server.up = False
    sim.world.say(f"{server.name} is down")
    sim.world.after(sim.rng.uniform(0.3, 4.0), lambda: setattr(server, "up", True))


def promote(sim: Simulator) -> None:
    """Promote a replica that lacks the last records and fills: they are lost, and a new generation begins.

    With pulses the old leader may stay up, isolated with some of the nodes, readable, and unaware.
    """
    old = sim.log.state
    state = snapshot(sim, old)
    lost = sim.rng.choice([0, 1, 3, 10])
    state.log.clear()
    state.ids.clear()
    kept = list(old.log)[: max(0, len(old.log) - lost)]
    _continue(state, kept)
    state.begin_generation(f"g{sim.world.new_id()}")
    server = Server(sim.world, state, f"log{sim.world.new_id()}")
    sim.world.say(f"{server.name} is promoted, {lost} records are lost")
    former = sim.log
    isolated = sim.pulsed and sim.rng.random() < 0.7
    former.leader = False
    former.state.proven = False
    former.up = isolated
    sim.log = server
    if sim.one_engine:
        sim.store = server
    ports = ("store", "log") if sim.one_engine else ("log",)
    left_behind = [process for process in sim.living() if isolated and sim.rng.random() < 0.5]
    for process in sim.world.processes:
        if process not in left_behind or process is getattr(sim, "relay", None):
            for port in ports:
                process.links[port].server = server

    def reconnect() -> None:
        for process in sim.world.processes:
            for port in ports:
                process.links[port].server = sim.log
        former.up = False

    sim.world.after(sim.rng.uniform(1.0, 6.0), reconnect)


def snapshot(sim: Simulator, old: MemoryServer) -> MemoryServer:
    """Give a copy of a server's data, as a replica has it."""
    state = sim.new_state()
    state.entries = copy.copy(old.entries)
    state.bytes = old.bytes
    state.marks = copy.copy(old.marks)
    state.log = copy.copy(old.log)
    state.ids = dict(old.ids)
    state.head, state.head_id, state.generation = old.head, old.head_id, old.generation
    state.bound_s = old.bound_s
    state.tokens, state.locks = old.tokens, dict(old.locks)
    return state


def _continue(state: MemoryServer, kept: list) -> None:  # type: ignore[type-arg]
    for logged in kept:
        state.log.append(logged)
        state.ids[logged.id] = logged
    if kept:
        state.head, state.head_id = kept[-1].position, kept[-1].id


def failback(sim: Simulator) -> None:
    """Go back to an older copy of everything, positions and all: it too is a new generation."""
    copies = sim.__dict__.setdefault("copies", [])
    if not copies or sim.rng.random() < 0.5:
        copies.append(snapshot(sim, sim.log.state))
        return
    old = sim.rng.choice(copies)
    state = snapshot(sim, old)
    state.begin_generation(f"g{sim.world.new_id()}")
    sim.world.say("the log goes back to an older copy")
    sim.log.state = state
    sim.log.notify()


def suspend_relay(sim: Simulator) -> None:
    """Stop the relay for a while: the log looks healthy, and tells nothing."""
    relay = getattr(sim, "relay", None)
    if relay is None or relay.paused or relay.dead:
        return
    relay.pause()
    sim.world.after(sim.rng.uniform(1.0, 6.0), lambda: relay.resume() if relay.paused else None)


def restart_relay(sim: Simulator) -> None:
    """Kill the relay, wherever it is, and start another one a moment later."""
    relay = getattr(sim, "relay", None)
    if relay is None or relay.dead:
        return
    crash(sim, relay)
    sim.world.after(sim.rng.uniform(0.0, 2.0), lambda: sim.start_relay() if sim.relay.dead else None)


def heal(sim: Simulator) -> None:
    """End all faults."""
    if sim.outbox is not None:
        sim.outbox.slow_s = 0.0
    sim.world.lost_replies = sim.world.duplicates = sim.world.scrambled = 0.0
    sim.log.up = sim.store.up = True
    if not sim.log.state.certain:  # the marks that were evicted are gone for ever: what is left counts from here on
        sim.log.state.forgotten, sim.log.state.certain = sim.log.state.head, True
    for process in sim.living():
        if process.paused:
            process.resume()
        for name, link in process.links.items():
            link.cut, link.lossy, link.delay_s = False, 0.0, 0.01
            link.server = sim.log if name == "log" or sim.one_engine else sim.store


__all__ = ["tail"]
