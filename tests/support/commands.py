"""Running programs, with the sentence and the output that a failure deserves."""

from __future__ import annotations

import shlex
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

Result = TypeVar("Result")
DEFAULT_TIMEOUT: Final = 30.0
_POLL: Final = 0.05


class CommandError(Exception):
    """A program failed or took too long. The text carries all that it printed."""

    def __init__(self, command: str, how: str, stdout: str, stderr: str) -> None:
        self.stdout = stdout
        self.stderr = stderr
        printed = "\n".join(part.rstrip() for part in (stdout, stderr) if part.strip())
        super().__init__(f"{command}: {how}" + (f"\n{printed}" if printed else ""))


def run_command(
    argv: Sequence[str],
    *,
    check: bool = True,
    timeout: float = DEFAULT_TIMEOUT,
    input: str | None = None,  # noqa: A002 - subprocess.run calls it so
    env: Mapping[str, str] | None = None,
    shown: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end and return its output as text.

    shown: what to call the command in an error, where `argv` is wrapped in others.
    Raises CommandError: it took more than `timeout` seconds, or (with `check`) did not exit with 0.
    """
    shown = shown or shlex.join(argv)
    try:
        done = subprocess.run(
            list(argv),
            stdin=subprocess.DEVNULL if input is None else None,
            input=input,
            capture_output=True,
            text=True,
            errors="backslashreplace",
            timeout=timeout,
            env=env,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        raise CommandError(
            shown, f"not done after {timeout:g} s", _text(late.stdout), _text(late.stderr)
        ) from None
    if check and done.returncode != 0:
        raise CommandError(shown, f"exit status {done.returncode}", done.stdout, done.stderr)
    return subprocess.CompletedProcess(argv, done.returncode, done.stdout, done.stderr)


def wait_until(
    condition: Callable[[], Result],
    deadline: float,
    what: str,
    *,
    on_timeout: Callable[[], str] = lambda: "",
) -> Result:
    """Ask `condition` until it answers with something true, and return that.

    An AssertionError or CommandError in it counts as "not yet".
    deadline: seconds from now.
    Raises TimeoutError: says `what` was awaited, the last answer, and `on_timeout`'s text.
    """
    end = time.monotonic() + deadline
    while True:
        last: object
        try:
            answer = condition()
        except (AssertionError, CommandError) as not_yet:
            last = not_yet
        else:
            if answer:
                return answer
            last = answer
        if time.monotonic() >= end:
            more = on_timeout()
            raise TimeoutError(
                f"{what}: not within {deadline:g} s; last: {last}" + (f"\n{more}" if more else "")
            )
        time.sleep(_POLL)


def _text(output: bytes | str | None) -> str:
    """A timed-out command's output, which subprocess leaves as bytes."""
    if isinstance(output, bytes):
        return output.decode(errors="backslashreplace")
    return output or ""
