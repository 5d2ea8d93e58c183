"""Peers: advertise, discover, connect, paths, gateways."""
