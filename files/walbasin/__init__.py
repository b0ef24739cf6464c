"""Implement barman-wal-restore and barman-wal-gate.

Each folder says where its code runs. It needs Python 3.8 and OpenSSH, nothing else.
"""

VERSION = "0.1.0"
