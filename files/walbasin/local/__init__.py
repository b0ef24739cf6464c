"""Read and write the standby's disk: data directory, spool, delivery."""
