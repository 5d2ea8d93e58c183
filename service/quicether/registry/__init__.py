"""The way from the daemon, which is no root process, to the authority's key, which is root's."""
