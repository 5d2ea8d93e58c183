"""The service process: the only place where all rooms are put together."""
