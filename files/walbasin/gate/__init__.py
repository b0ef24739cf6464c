"""Serve WAL on the Barman host: all that a standby's key can do."""
