"""Control messages between peers: versioned CBOR, bounded, unknown fields ignored."""
