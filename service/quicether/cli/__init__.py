"""The quicether command: talks to the daemon over D-Bus."""
