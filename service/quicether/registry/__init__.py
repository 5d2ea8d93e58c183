"""The way from the daemon, which is no root process, to programs of root's for one thing each."""
