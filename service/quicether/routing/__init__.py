"""Which way a packet goes: candidates, precedence, and the immutable FIB."""
