"""Fakes of nmcli and systemctl on the search path, for tests of what the command line runs."""

from __future__ import annotations

from pathlib import Path

NMCLI = """#!/bin/sh
echo "nmcli $*" >>"$0.log"
case "$*" in
"-g RUNNING general") echo running ;;
"-g UUID,TYPE connection show")
  printf '1111:ethernet\\n'
  [ ! -e "$0.profiles" ] || sed 's/|.*/:vpn/' "$0.profiles" ;;
*"connection show "*)
  for uuid; do :; done
  grep "^$uuid|" "$0.profiles" | tr '|' '\\n' | tail -n +2 ;;
*"connection up"*)
  [ ! -e "$0.trouble" ] || { cat "$0.trouble" >&2; exit 4; } ;;
esac
"""
SYSTEMCTL = """#!/bin/sh
echo "systemctl $*" >>"$0.log"
case "$*" in
show*) echo 252 ;;
is-enabled*) cat "$0.enabled" 2>/dev/null || echo disabled ;;
is-active*) echo inactive ;;
esac
"""


class FakePrograms:
    """A folder with the fakes. profiles: lines `UUID|SERVICE|NAME|DATA` that nmcli knows."""

    def __init__(self, folder: Path, *, networkmanager: bool = True, systemd: bool = True) -> None:
        self.folder = folder
        folder.mkdir()
        for name, text, wanted in (
            ("nmcli", NMCLI, networkmanager),
            ("systemctl", SYSTEMCTL, systemd),
        ):
            path = folder / name
            path.write_text(text if wanted else "#!/bin/sh\nexit 8\n")
            path.chmod(0o755)

    @property
    def path(self) -> str:
        """The search path with the fakes in front."""
        return f"{self.folder}:/usr/bin:/bin"

    def has_profiles(self, *lines: str) -> None:
        (self.folder / "nmcli.profiles").write_text("".join(f"{line}\n" for line in lines))

    def has_trouble(self, text: str) -> None:
        """Let `nmcli connection up` fail with text."""
        (self.folder / "nmcli.trouble").write_text(text)

    def enabled(self) -> None:
        """Let systemctl know every unit as enabled."""
        (self.folder / "systemctl.enabled").write_text("enabled\n")

    def changes(self) -> list[str]:
        """What was run that changes something, in order."""
        asking = ("-g ", "-e no ", "show", "is-")
        found = []
        for name in ("nmcli", "systemctl"):
            log = self.folder / f"{name}.log"
            for line in log.read_text().splitlines() if log.exists() else ():
                if not line.removeprefix(f"{name} ").startswith(asking):
                    found.append(line)
        return found
