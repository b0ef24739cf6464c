"""Know what is on the standby's disk: data directory, spool, delivery."""
