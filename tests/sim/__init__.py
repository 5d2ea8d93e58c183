"""Thousands of real DHT machines in virtual time, in one process, deterministic by seed."""
