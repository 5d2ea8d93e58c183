"""QUIC between nodes. Nothing outside this room imports the QUIC engine."""
