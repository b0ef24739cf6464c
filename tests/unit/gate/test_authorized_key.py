"""Test which lines of an authorized_keys let a key fetch WAL."""

import subprocess
from pathlib import Path

import pytest
from walbasin.gate.authorized_key import AuthorizedKey, is_authorized

GATE = "/usr/local/bin/barman-wal-gate"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    """Return two public keys (type and base64), each with its fingerprint."""
    found = []
    for kind in ("ed25519", "ecdsa"):
        path = tmp_path_factory.mktemp("keys") / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", path], check=True)
        printed = subprocess.check_output(["ssh-keygen", "-lf", path], text=True)
        found.append((" ".join(path.with_suffix(".pub").read_text().split()[:2]), printed.split()[1]))
    return found


@pytest.mark.parametrize(
    ("line", "is_let_in"),
    [
        (f'restrict,from="10.0.0.9",command="{GATE} --key X angus" KEY walbasin:chris:angus', True),
        (f"restrict,command=\"{GATE} --config '/etc/b 2.conf' angus berta\" KEY", True),
        (f'command="{GATE} angus",restrict KEY with a comment', True),
        (f'command="FOO=\\"a b\\" {GATE} angus" KEY', True),
        (f'  restrict,command="{GATE} angus"\tKEY', True),
        ("", False),
        (f'#restrict,command="{GATE} angus" KEY', False),
        (f'restrict,command="{GATE} angus" OTHER', False),
        (f'restrict,command="{GATE} berta" KEY', False),
        (f'restrict,command="{GATE} angus2" KEY', False),
        (f'restrict,command="{GATE} berta" KEY angus', False),
        (f'restrict,environment="A=angus",command="{GATE} berta" KEY', False),
        (f'restrict,command="{GATE} \'angus" KEY', False),
        (f'restrict,command="{GATE} angus" ssh-ed25519 AAAA', False),
        ("KEY", False),
    ],
)
def test_lines(keys: list[tuple[str, str]], line: str, is_let_in: bool) -> None:
    (key, fingerprint), (other, _) = keys
    text = f"# comment\n\n{line.replace('KEY', key).replace('OTHER', other)}\n"
    assert is_authorized(text, fingerprint, "angus") == is_let_in


def test_changes_of_the_file(keys: list[tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Follow a line that is taken away and put back while a connection is open."""
    (key, fingerprint), _ = keys
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    line = f'restrict,command="{GATE} angus" {key}\n'
    watched = AuthorizedKey(fingerprint, "angus")
    assert not watched.is_authorized(), "there is no file"
    file, second = tmp_path / ".ssh" / "authorized_keys", tmp_path / ".ssh" / "authorized_keys2"
    file.write_text(line)
    assert watched.is_authorized()
    assert AuthorizedKey("", "angus").is_authorized(), "an older line has no fingerprint"
    (tmp_path / "new").write_text("# nobody\n")
    (tmp_path / "new").replace(file)
    assert not watched.is_authorized()
    second.write_text(line)
    assert watched.is_authorized()
    second.unlink()
    assert not watched.is_authorized()
    file.write_bytes(b"\xff\xfe\n" + line.encode())
    assert watched.is_authorized()
