"""Runs a command as a user in an active session at seat0, as at a machine's own keyboard.

usage, as root on a host with systemd-logind: seat.py USER COMMAND [ARGUMENT …]
"""

from __future__ import annotations

import os
import pwd
import sys

from jeepney import DBusAddress, MessageType, new_method_call
from jeepney.io.blocking import open_dbus_connection

LOGIN = DBusAddress(
    "/org/freedesktop/login1", "org.freedesktop.login1", "org.freedesktop.login1.Manager"
)


def main(user: str, *command: str) -> int:
    """Return the exit status of the command."""
    entry = pwd.getpwnam(user)
    session_is_there, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(tell)
        if not os.read(session_is_there, 1):
            os._exit(125)
        os.setgroups([])
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
        os.execvpe(command[0], command, {"PATH": os.environ["PATH"], "HOME": entry.pw_dir})
    os.close(session_is_there)
    # The session lasts as long as the descriptor in the reply is open.
    with open_dbus_connection("SYSTEM", enable_fds=True) as bus:
        arguments = (entry.pw_uid, child, "login", "tty", "user", "", "seat0", 0, "", "")
        call = new_method_call(
            LOGIN, "CreateSession", "uusssssussbssa(sv)", (*arguments, False, "", "", [])
        )
        reply = bus.send_and_get_reply(call)
        if reply.header.message_type is MessageType.error:
            os.close(tell)
            os.waitpid(child, 0)
            sys.exit(f"seat.py: {reply.body[0]}")
        os.write(tell, b"x")
        _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
