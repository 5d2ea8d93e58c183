"""Packets between the device and the connections."""
