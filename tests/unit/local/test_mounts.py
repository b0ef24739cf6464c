import pytest
from walbasin.local import mounts

ROOT = "27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw"
PROC = "22 27 0:21 / /proc rw,relatime - proc proc rw"
OURS = f"{ROOT}\n{PROC}\n"
SPOOL = "/var/lib/postgresql/15/walbasin_main"
BOOT_ID = "/proc/sys/kernel/random/boot_id"


def mount(point: str, options: str = "rw", *, device: str = "254:0", root: str = "", kind: str = "ext4") -> str:
    """Return a line for a mount, a bind mount of the root filesystem as a rule."""
    return f"40 27 {device} {root or point} {point} {options},relatime shared:7 master:1 - {kind} /dev/x rw"


@pytest.mark.parametrize(
    ("what", "server", "spool", "words"),
    [
        ("no mounts of its own", OURS, SPOOL, ""),
        ("ProtectSystem=strict", f"{mount('/', 'ro')}\n{PROC}", SPOOL, f"add ReadWritePaths={SPOOL} to its unit"),
        ("and ReadWritePaths=", f"{mount('/', 'ro')}\n{mount(SPOOL)}\n{PROC}", SPOOL, ""),
        ("of a folder above", f"{mount('/', 'ro')}\n{mount('/var/lib/postgresql')}\n{PROC}", SPOOL, ""),
        ("of another with such a name", f"{mount('/', 'ro')}\n{mount(SPOOL + '_2')}\n{PROC}", SPOOL, "ReadWritePaths="),
        ("ReadOnlyPaths=", f"{ROOT}\n{mount('/var', 'ro')}\n{PROC}", SPOOL, "ReadWritePaths="),
        ("the later one counts", f"{ROOT}\n{mount(SPOOL, 'ro')}\n{mount(SPOOL)}\n{PROC}", SPOOL, ""),
        ("a blank", f"{mount('/', 'ro')}\n{mount('/srv/a' + chr(92) + '040b')}\n{PROC}", "/srv/a b", ""),
        (
            "PrivateTmp=",
            f"{ROOT}\n{mount('/var/tmp', root='/var/tmp/systemd-private-1/tmp')}\n{PROC}",
            "/var/tmp/barman-wal-restore",
            "sees another folder at /var/tmp/barman-wal-restore: look for PrivateTmp=",
        ),
        (
            "ProtectHome=tmpfs",
            f"{ROOT}\n{mount('/home', device='0:50', root='/', kind='tmpfs')}\n{PROC}",
            "/home/postgres/spool",
            "sees another folder",
        ),
        ("ProcSubset=pid", f"{ROOT}\n{PROC},subset=pid", SPOOL, "take ProcSubset=pid out of its unit"),
        (
            "ProtectKernelTunables=",
            f"{OURS}{mount('/proc/sys', 'ro', device='0:21', root='/sys', kind='proc')}",
            SPOOL,
            "",
        ),
        (
            "InaccessiblePaths=/proc/sys",
            f"{OURS}{mount('/proc/sys', 'ro', kind='tmpfs')}",
            SPOOL,
            "what hides /proc/sys",
        ),
        ("no mountinfo that can be read", "nonsense\n1 2 3 - \n", SPOOL, ""),
    ],
)
def test_mounts_of_server(what: str, server: str, spool: str, words: str) -> None:
    found = mounts.explain(server, OURS, spool, BOOT_ID)
    assert words in found, what
    assert bool(found) == bool(words), what


def test_read_only_for_both() -> None:
    """Leave what is so for everybody to the test that fetches a segment."""
    everywhere = f"{mount('/', 'ro')}\n{PROC}"
    assert mounts.explain(everywhere, everywhere, SPOOL, BOOT_ID) == ""


def test_bind_mount_of_the_same_folder() -> None:
    server = f"{ROOT}\n{mount('/srv/pg', root='/data/pg')}\n{PROC}"
    ours = f"{ROOT}\n{mount('/srv', root='/data')}\n{PROC}"
    assert mounts.explain(server, ours, "/srv/pg/spool", BOOT_ID) == ""
    assert "another folder" in mounts.explain(server, OURS, "/srv/pg/spool", BOOT_ID)
