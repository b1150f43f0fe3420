"""What Redis answers in place of an answer, as our errors, each with its cure."""

from __future__ import annotations

from typing import Final

from unstale.errors import CorruptError, DeniedError, EngineError, FullError, ReadOnlyError, UnavailableError


class ErrorReply(Exception):  # noqa: N818 - a reply, not yet an error of ours
    """An error that a server sent as its reply: the first word says which."""

    @property
    def code(self) -> str:
        """Its first word."""
        return str(self).partition(" ")[0].removeprefix("-")

    @property
    def out(self) -> bool:
        """The server answers nobody now."""
        return str(self).removeprefix("-").startswith(tuple(OUT))


# Whether the outcome of a write is known with these is not asked: appends are repeated by their ids.
PASSING: Final = {
    "LOADING": "the server reads its data; it will answer soon",
    "BUSY": "a script of another program keeps the server busy: SCRIPT KILL ends it",
    "MASTERDOWN": "the replica has lost its primary, and is told not to answer: see replica-serve-stale-data",
    "TRYAGAIN": "a slot of the cluster is on its way to another server",
    "CLUSTERDOWN": "some slots of the cluster have no server: see CLUSTER INFO",
    "MOVED": "the slots of the cluster move all the time",
    "ASK": "the slots of the cluster move all the time",
    "UNBLOCKED": "the server is a replica now",
    "NOREPLICAS": "the server has fewer replicas than min-replicas-to-write",
    "ERR max": "the server has no room for another connection: raise maxclients",
}
OUT: Final = frozenset({"LOADING", "BUSY", "MASTERDOWN", "ERR max"})  # with these a server answers nobody
DENIED: Final = {
    "NOAUTH": "write the password into the URL: redis://user:password@host",
    "WRONGPASS": "correct user and password in the URL: redis://user:password@host",
    "NOPERM": "allow the user what the engine needs: ACL SETUSER <user> +@read +@write +@scripting +info +ping +wait "
    "+time +select +cluster|slots ~unstale:* ~{{unstale:*",
    "DENIED": "the server is in protected mode: set a password, or bind it to the address of this host",
}


def reply_error(reply: ErrorReply, place: str) -> EngineError:
    """Give the error that a server's error reply means.

    Args:
        reply: The reply.
        place: The server, for the message.
    """
    text, code = str(reply), reply.code
    if "NOPERM" in text or "can't run this command or subcommand" in text or "permissions" in text:
        code = "NOPERM"
    if code in DENIED:
        return DeniedError(f"{place} denies what the cache asks for: {text}", hint=DENIED[code].replace("{{", "{"))
    if code == "READONLY" or "READONLY" in text:
        hint = "name the primary in the URL, or the sentinels: redis+sentinel://host:26379/primary-name"
        return ReadOnlyError(f"{place} is a replica, which takes no writes", hint=hint)
    if code == "OOM" or "OOM command not allowed" in text:
        hint = "raise maxmemory, or let it evict: CONFIG SET maxmemory-policy volatile-ttl"
        return FullError(f"{place} has no memory left", hint=hint)
    if code == "MISCONF":
        hint = "make room on its disk, or look into its log: it cannot save, and is told to refuse writes then"
        return FullError(f"{place} cannot save what is written: {text}", hint=hint)
    if code == "WRONGTYPE" or "WRONGTYPE" in text:
        hint = "another program uses our keys: delete what it wrote, or choose another prefix= in the URL"
        return CorruptError(f"{place} holds something else at a key of the cache: {text}", hint=hint)
    if "equal or smaller than the target stream top item" in text:
        hint = "another program wrote to the log: delete its meta key, ...:meta, and a new generation begins"
        return CorruptError(f"{place} has a log that is not ours: {text}", hint=hint)
    for word, hint in PASSING.items():
        if text.startswith(word):
            return UnavailableError(f"{place} does not answer now: {text}", hint=hint)
    hint = "Redis 7 or newer is needed, or any Valkey" if "unknown command" in text.lower() else "see its log"
    return EngineError(f"{place} answered with an error: {text}", hint=hint)
