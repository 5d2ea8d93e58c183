"""A fake of polkit on a private bus: says yes, no, or asks for a password, by action."""
# ruff: noqa: ANN201, F722, F821, UP037
# mypy: disable-error-code="name-defined, no-untyped-def, syntax, untyped-decorator, valid-type"

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import Any, Final

from dbus_next.aio.message_bus import MessageBus
from dbus_next.errors import DBusError
from dbus_next.service import ServiceInterface, method

AUTHORITY: Final = "org.freedesktop.PolicyKit1"


class Answer(StrEnum):
    """What polkit says of an action."""

    YES = "yes"
    NO = "no"
    CHALLENGE = "challenge"
    """Yes after a password, where the caller may be asked; the person always knows it."""
    SILENCE = "silence"
    """The question stays open until it is cancelled."""
    FAILURE = "failure"


class FakePolkit(ServiceInterface):
    """Answers `default` but for what `answers` says. asked: (sender, action, flags), in order."""

    def __init__(self) -> None:
        super().__init__(f"{AUTHORITY}.Authority")
        self.default = Answer.YES
        self.answers: dict[str, Answer] = {}
        self.asked: list[tuple[str, str, int]] = []
        self.cancelled: list[str] = []
        self.news = asyncio.Event()

    async def start(self, bus: MessageBus) -> None:
        """Take polkit's name."""
        bus.export("/org/freedesktop/PolicyKit1/Authority", self)
        await bus.request_name(AUTHORITY)

    @method()
    async def CheckAuthorization(
        self, subject: "(sa{sv})", action: "s", details: "a{ss}", flags: "u", cancellation: "s"
    ) -> "(bba{ss})":
        kind, about = subject
        assert kind == "system-bus-name"
        self.asked.append((about["name"].value, action, flags))
        self.news.set()
        answer = self.answers.get(action, self.default)
        if answer is Answer.SILENCE:
            await asyncio.Event().wait()
        if answer is Answer.FAILURE:
            raise DBusError(f"{AUTHORITY}.Error.Failed", f"Action {action} is not registered")
        reply: list[Any] = [
            answer is Answer.YES or (answer is Answer.CHALLENGE and flags & 1 == 1),
            answer is Answer.CHALLENGE,
            {},
        ]
        return reply

    @method()
    def CancelCheckAuthorization(self, cancellation: "s"):
        self.cancelled.append(cancellation)
        self.news.set()
