"""Method calls → authorised, checked, bounded work → answers.

Everything that a client sends passes here: how much of it may wait at once is bounded for each
sender, each user and in all, polkit is asked before arguments are looked at, and whatever goes
wrong becomes an error with a name of ours and a sentence.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

from dbus_next.constants import MessageFlag

from quicether.bus.api import INTROSPECTABLE, OBJECT_MANAGER, PROPERTIES
from quicether.bus.authorise import Authority, NotAuthorizedError
from quicether.bus.connection import BusConnection
from quicether.bus.contract import Action, ErrorName
from quicether.bus.controller import AlreadyUpError, NoSuchTunnelError
from quicether.bus.guard import Call
from quicether.bus.interface import Interface, Method, Property, introspection
from quicether.bus.wire import decode, encode
from quicether.errors import OWN_FAULT, ConfigError, IdentityError, QuicEtherError, TrustError

log = logging.getLogger(__name__)

MAX_CALLS: Final = 256
"""Most calls that are worked on at once, of all callers together."""
MAX_CALLS_OF_SENDER: Final = 32
MAX_CALLS_OF_USER: Final = 64
"""Of all connections of one user together, so that none of them keeps the others out."""
MAX_SENTENCE: Final = 2000
"""Longest error text, in characters."""
_STANDARD_ERROR: Final = "org.freedesktop.DBus.Error."


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: the unique bus name, and whether the person behind may be asked."""

    name: str
    interactive: bool


class StandardError(QuicEtherError):
    """A call that does not fit the API. name: the D-Bus specification's name for it."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = _STANDARD_ERROR + name


class Exported(Protocol):
    """One interface of one object."""

    @property
    def interface(self) -> Interface:
        """What it can do and tell."""

    async def call(self, method: str, args: Sequence[Any], caller: Caller) -> Sequence[Any]:
        """Run a method whose signature fits and for which the caller is authorised."""

    def get(self, name: str) -> Any:
        """Return a property that the interface has, variants as (signature, value)."""

    def revision(self, name: str) -> object:
        """Return what differs whenever a property that `INVALIDATES` may; cheap, unlike `get`."""


class Objects(Protocol):
    """The tree of objects."""

    def find(self, path: str) -> Exported | None:
        """Return the interface of ours at path."""

    def children(self, path: str) -> Sequence[str]:
        """Return the names of the nodes below path, nothing for a path that is not ours."""

    def managed(self) -> Mapping[str, Exported]:
        """Return path → object for all that the object manager lists."""

    def manages(self, path: str) -> bool:
        """Tell whether the object manager is at path."""


def properties(exported: Exported) -> dict[str, tuple[str, Any]]:
    """Return all properties of an object as name → (signature, value)."""
    return {
        item.name: (item.signature, exported.get(item.name))
        for item in exported.interface.properties
    }


class Dispatcher:
    """Answers method calls on a tree of objects."""

    def __init__(self, connection: BusConnection, authority: Authority, objects: Objects) -> None:
        self._connection = connection
        self._authority = authority
        self._objects = objects
        self._running: dict[asyncio.Task[None], str] = {}
        self._committed: set[asyncio.Task[None]] = set()
        self._of_sender: Counter[str] = Counter()
        self._users: dict[str, asyncio.Task[int]] = {}
        self._of_user: Counter[int] = Counter()
        self._turn = asyncio.Lock()
        self._turn_of_sender: dict[str, asyncio.Lock] = {}
        self.refused = 0
        """Calls turned away because too many were waiting."""

    def receive(self, call: Call) -> None:
        """Take a call. Its answer is sent when the work is done."""
        sender = str(call.sender)
        if self._of_sender[sender] >= MAX_CALLS_OF_SENDER or len(self._running) >= MAX_CALLS:
            error = self._too_many()
            self._connection.reply_error(call, error.name, str(error))
            return
        task = asyncio.get_running_loop().create_task(self._answer(call))
        self._running[task] = sender
        self._of_sender[sender] += 1
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        sender = self._running.pop(task)
        self._committed.discard(task)
        self._of_sender[sender] -= 1
        if not self._of_sender[sender]:
            del self._of_sender[sender]
            self._turn_of_sender.pop(sender, None)
            if (asking := self._users.pop(sender, None)) is not None:
                asking.cancel()

    def _too_many(self) -> StandardError:
        self.refused += 1
        text = "too many calls at once; wait for the answers to the earlier ones"
        return StandardError("LimitsExceeded", text)

    async def _user_of(self, sender: str) -> int:
        """Return the number of the user behind a sender. Raises HostError: it is gone."""
        if sender not in self._users:
            asked = self._connection.user_of(sender)
            self._users[sender] = asyncio.get_running_loop().create_task(asked)
        # Shielded, because other calls of the sender wait for it, too.
        return await asyncio.shield(self._users[sender])

    def vanished(self, name: str) -> None:
        """Cancel the questions of a caller that left the bus; what changes things goes on."""
        if name in self._of_sender:
            for task, sender in self._running.items():
                if sender == name and task not in self._committed:
                    task.cancel()

    async def close(self) -> None:
        """Cancel everything and return when all of it has ended."""
        tasks = list(self._running)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, call: Call) -> None:
        try:
            user = await self._user_of(str(call.sender))
            if self._of_user[user] >= MAX_CALLS_OF_USER:
                raise self._too_many()
            self._of_user[user] += 1
            try:
                signature, body = await self._work(call)
            finally:
                self._of_user[user] -= 1
                self._of_user += Counter()  # drops what is zero
            self._connection.reply(call, signature, body)
        except Exception as error:  # noqa: BLE001  a caller gets a sentence, never a traceback
            name, text = describe(error)
            self._connection.reply_error(call, name, text[:MAX_SENTENCE])

    async def _work(self, call: Call) -> tuple[str, list[Any]]:
        path, member = str(call.path), str(call.member)
        method, run = self._find(path, call.interface, member)
        if call.refusal is not None:
            raise StandardError("InvalidArgs", f"{member}: {call.refusal}")
        if call.signature != method.signature:
            raise StandardError(
                "InvalidArgs",
                f"{member} takes arguments of signature {method.signature!r}, "
                f"not {call.signature!r}",
            )
        interactive = bool(call.flags & MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION)
        caller = Caller(str(call.sender), interactive)
        await self._authority.check(caller.name, method.action, interactive)
        if method.action is not Action.STATUS and (task := asyncio.current_task()) is not None:
            self._committed.add(task)
        if not method.large:
            return await self._run(method, run, call, caller)
        # Senders take turns, however many calls each of them has waiting.
        own_turn = self._turn_of_sender.setdefault(caller.name, asyncio.Lock())
        async with own_turn, self._turn:
            answer = await self._run(method, run, call, caller)
            await asyncio.sleep(0)
            return answer

    async def _run(
        self,
        method: Method,
        run: Callable[[list[Any], Caller], Any],
        call: Call,
        caller: Caller,
    ) -> tuple[str, list[Any]]:
        result = await run([decode(argument) for argument in call.body], caller)
        body = [
            encode(arg.signature, found) for arg, found in zip(method.gives, result, strict=True)
        ]
        return method.result, body

    def _find(
        self, path: str, interface: str | None, member: str
    ) -> tuple[Method, Callable[[list[Any], Caller], Any]]:
        exported = self._objects.find(path)
        candidates: list[tuple[Interface, Callable[..., Any]]] = []
        if exported is not None:
            candidates.append((exported.interface, exported.call))
            candidates.append((PROPERTIES, lambda m, args, _: self._properties(exported, m, args)))
        if self._objects.manages(path):
            candidates.append((OBJECT_MANAGER, lambda *_: self._managed_objects()))
        if candidates or self._objects.children(path):
            candidates.append((INTROSPECTABLE, lambda *_: self._introspect(path)))
        if not candidates:
            raise StandardError("UnknownObject", f"there is no object {path}")
        for known, run in candidates:
            if interface in (None, known.name) and (method := known.method(member)) is not None:
                return method, partial(run, member)
        if interface is not None and all(known.name != interface for known, _ in candidates):
            raise StandardError("UnknownInterface", f"{path} has no interface {interface}")
        raise StandardError("UnknownMethod", f"{path} has no method {member}")

    async def _properties(self, exported: Exported, member: str, args: list[Any]) -> list[Any]:
        if args[0] not in ("", exported.interface.name):
            raise StandardError("UnknownInterface", f"there are no properties of {args[0]!r} here")
        if member == "GetAll":
            return [properties(exported)]
        found: Property | None = next(
            (item for item in exported.interface.properties if item.name == args[1]), None
        )
        if found is None:
            raise StandardError("UnknownProperty", f"there is no property {args[1][:80]!r}")
        if member == "Set":
            raise StandardError("PropertyReadOnly", f"property {found.name} cannot be set")
        return [(found.signature, exported.get(found.name))]

    async def _managed_objects(self) -> list[Any]:
        return [
            {
                path: {exported.interface.name: properties(exported)}
                for path, exported in self._objects.managed().items()
            }
        ]

    async def _introspect(self, path: str) -> list[Any]:
        exported = self._objects.find(path)
        interfaces = [] if exported is None else [exported.interface, PROPERTIES]
        if self._objects.manages(path):
            interfaces.append(OBJECT_MANAGER)
        return [introspection([*interfaces, INTROSPECTABLE], self._objects.children(path))]


def describe(error: Exception) -> tuple[str, str]:
    """Return the D-Bus name and the sentence of an error. A bug of ours goes to the journal."""
    match error:
        case StandardError():
            return error.name, str(error)
        case NotAuthorizedError():
            return ErrorName.NOT_AUTHORIZED.value, str(error)
        case NoSuchTunnelError():
            return ErrorName.NOT_FOUND.value, str(error)
        case AlreadyUpError():
            return ErrorName.ALREADY_UP.value, str(error)
        case ConfigError():
            return ErrorName.INVALID.value, str(error)
        case IdentityError():
            return ErrorName.IDENTITY.value, str(error)
        case TrustError():
            return ErrorName.NOT_TRUSTED.value, str(error)
        case QuicEtherError():
            return ErrorName.FAILED.value, str(error)
    log.error("a D-Bus call failed for a reason of our own", exc_info=error)
    return ErrorName.FAILED.value, OWN_FAULT
