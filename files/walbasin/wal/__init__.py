"""Handle WAL names, headers, compression and the protocol: pure, for both hosts."""
