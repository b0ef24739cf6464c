"""Know WAL: names, headers, compression and the protocol. Pure, on both hosts."""
