"""How an interface is described, and the introspection XML that is made of it. Pure.

Documentation is written into the XML as `org.gtk.GDBus.DocString` annotations, so that
`gdbus introspect` and `d-feet` show it beside each member.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from xml.etree import ElementTree

from quicether.bus.contract import Action

DOCTYPE: Final = (
    '<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"\n'
    ' "http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">\n'
)
_DOC: Final = "org.gtk.GDBus.DocString"
_CHANGES: Final = "org.freedesktop.DBus.Property.EmitsChangedSignal"


class Changes(StrEnum):
    """How a property's change is told (D-Bus specification, EmitsChangedSignal)."""

    TOLD = "true"
    INVALIDATES = "invalidates"
    UNTOLD = "false"
    NEVER = "const"


@dataclass(frozen=True, slots=True)
class Arg:
    """One argument or result. signature: one complete D-Bus type."""

    name: str
    signature: str


@dataclass(frozen=True, slots=True)
class Method:
    """A method.

    action: what polkit is asked before it runs. large: its answer comes from memory and may be
    large, so that only one of its kind is built in a turn of the event loop.
    """

    name: str
    takes: tuple[Arg, ...]
    gives: tuple[Arg, ...]
    action: Action
    doc: str
    large: bool = False

    @property
    def signature(self) -> str:
        """Signature of all arguments together."""
        return "".join(arg.signature for arg in self.takes)

    @property
    def result(self) -> str:
        """Signature of all results together."""
        return "".join(arg.signature for arg in self.gives)


@dataclass(frozen=True, slots=True)
class Signal:
    """A signal."""

    name: str
    carries: tuple[Arg, ...]
    doc: str


@dataclass(frozen=True, slots=True)
class Property:
    """A property; all of ours are read-only."""

    name: str
    signature: str
    changes: Changes
    doc: str


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface: what a D-Bus object can do and tell."""

    name: str
    doc: str
    methods: tuple[Method, ...] = ()
    properties: tuple[Property, ...] = ()
    signals: tuple[Signal, ...] = ()

    def method(self, name: str) -> Method | None:
        """Return the method of that name."""
        return next((method for method in self.methods if method.name == name), None)


def introspection(interfaces: Iterable[Interface], children: Iterable[str]) -> str:
    """Return the introspection XML of an object. children: names of the nodes below it."""
    node = ElementTree.Element("node")
    for interface in interfaces:
        _add_interface(node, interface)
    for child in children:
        ElementTree.SubElement(node, "node", name=child)
    ElementTree.indent(node)
    return DOCTYPE + ElementTree.tostring(node, encoding="unicode") + "\n"


def _add_interface(node: ElementTree.Element, interface: Interface) -> None:
    found = ElementTree.SubElement(node, "interface", name=interface.name)
    _annotate(found, _DOC, interface.doc)
    for method in interface.methods:
        element = ElementTree.SubElement(found, "method", name=method.name)
        _annotate(element, _DOC, method.doc)
        for direction, args in (("in", method.takes), ("out", method.gives)):
            for arg in args:
                ElementTree.SubElement(
                    element, "arg", name=arg.name, type=arg.signature, direction=direction
                )
    for signal in interface.signals:
        element = ElementTree.SubElement(found, "signal", name=signal.name)
        _annotate(element, _DOC, signal.doc)
        for arg in signal.carries:
            ElementTree.SubElement(element, "arg", name=arg.name, type=arg.signature)
    for item in interface.properties:
        element = ElementTree.SubElement(
            found, "property", name=item.name, type=item.signature, access="read"
        )
        _annotate(element, _DOC, item.doc)
        _annotate(element, _CHANGES, item.changes)


def _annotate(element: ElementTree.Element, name: str, value: str) -> None:
    ElementTree.SubElement(element, "annotation", name=name, value=value)
