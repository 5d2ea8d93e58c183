"""Files, environment and flags → `Settings`, in their order of precedence.

`settle` is pure; `load` is the thin part that reads files.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from quicether.config.options import OPTIONS
from quicether.config.settings import SOME, Raw, Settings, option_of, unknown
from quicether.errors import ConfigError
from quicether.plainfile import read_plain

CONFIG_DIR: Final = Path("/etc/quicether")
DEFAULT_FILE: Final = "config.toml"
MAX_FILE: Final = 1024 * 1024
"""Largest configuration file, in bytes."""
PREFIX: Final = "QUICETHER_"
PLACES: Final = frozenset({"QUICETHER_ETC", "QUICETHER_VAR"})
"""Variables that say where a machine's files lie (identity.store); no settings."""
_VARIABLES: Final = {option.variable: option for option in OPTIONS.values()}


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A configuration file that was read. name: what errors call it, usually its path."""

    name: str
    text: str


def stored_file(network: str | None, directory: Path = CONFIG_DIR) -> Path:
    """Return where the configuration of `quicether@NETWORK` is; None is the default tunnel's."""
    return directory / (DEFAULT_FILE if network is None else f"{network}.toml")


def user_file(environ: Mapping[str, str]) -> Path:
    """Return where a user's own configuration is (XDG base directories)."""
    base = environ.get("XDG_CONFIG_HOME") or f"{environ.get('HOME', '/root')}/.config"
    return Path(base) / "quicether" / DEFAULT_FILE


def settle(
    files: Sequence[ConfigFile], environ: Mapping[str, str], flags: Mapping[str, str]
) -> Settings:
    """Return the settings of files, each overriding the ones before it, environment and flags.

    environ: variables `QUICETHER_SECTION_KEY` override the files; others are ignored.
    flags: keys of `OPTIONS`, override all. Raises ConfigError: the sentence names the source.
    """
    raw: Raw = {}
    sources: dict[tuple[str, str], str] = {}
    for file in files:
        _merge_file(file, raw, sources)
    for variable, value in environ.items():
        if not variable.startswith(PREFIX) or variable in PLACES:
            continue
        if (option := _VARIABLES.get(variable)) is None:
            raise ConfigError(unknown(f"variable {variable}", variable, _VARIABLES))
        raw.setdefault(option.section, {})[option.field] = value
        sources[option.section, option.field] = variable
    for key, value in flags.items():
        option = option_of(key)
        raw.setdefault(option.section, {})[option.field] = value
        sources[option.section, option.field] = option.flag
    return Settings.from_raw(raw, sources)


def _merge_file(file: ConfigFile, raw: Raw, sources: dict[tuple[str, str], str]) -> None:
    try:
        content: dict[str, Any] = tomllib.loads(file.text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{file.name}: not TOML: {error}") from None
    for section, table in content.items():
        if section not in Settings.model_fields:
            raise ConfigError(
                unknown(f"{file.name}: section [{section[:80]}]", section, Settings.model_fields)
            )
        if not isinstance(table, dict):
            raise ConfigError(f"{file.name}: {section} is a section; write [{section}] over it")
        sources[section, SOME] = file.name
        raw.setdefault(section, {}).update(table)
        for field in table:
            sources[section, field] = f"{file.name}: [{section}] {field}"


def read_file(path: Path) -> ConfigFile | None:
    """Return the configuration file at path, None where there is none.

    Raises ConfigError: it cannot be read, is no UTF-8, or is larger than `MAX_FILE`.
    """
    try:
        data = read_plain(path, MAX_FILE)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        return ConfigFile(str(path), data.decode())
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}") from None


def load(paths: Sequence[Path], environ: Mapping[str, str], flags: Mapping[str, str]) -> Settings:
    """Read those of paths that exist and return what `settle` makes of all. Raises ConfigError."""
    files = [file for path in paths if (file := read_file(path)) is not None]
    return settle(files, environ, flags)
