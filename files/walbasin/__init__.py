"""What barman-wal-restore and barman-wal-gate stand on. Python's standard library (3.8 or later) and OpenSSH alone."""

VERSION = "0.1.0"
