"""The D-Bus API: contract, service, authorisation."""
