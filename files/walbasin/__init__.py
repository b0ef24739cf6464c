"""Hold what barman-wal-restore and barman-wal-gate are made of.

The folders say where code runs; they need Python 3.8 and OpenSSH, nothing else.
"""

VERSION = "0.1.0"
