"""Test what a rebuild refuses, and the plan that it shows."""

import re
from typing import Any, Dict, List

import pytest

from tests.support.role_templar import ROLE, load, value_of

MIB, GIB = 1 << 20, 1 << 30
SIZE = 16 * MIB
DATA = "/var/lib/postgresql/15/main"


def room(free: int = 10 * GIB, folder: str = DATA, old: int = 0) -> Dict[str, Any]:
    """Return a filesystem that needs two GiB, as files/examine_data.py finds it."""
    return {
        "folder": folder,
        "needed": 2 * GIB,
        "free": free,
        "is_enough": free >= 2 * GIB,
        "is_enough_without_old": free + old >= 2 * GIB,
    }


def known(**changes: Any) -> Dict[str, Any]:
    """Return what was found of a standby that can be rebuilt, with these changes.

    Names with a dot (found__size) change one value of what a script has said.
    """
    found: Dict[str, Any] = {
        "is_there": True,
        "is_link": False,
        "is_mount": False,
        "is_empty": False,
        "has_version": True,
        "size": GIB,
        "is_begun": False,
        "placed": "",
        "rooms": [room()],
        "can_write": True,
        "is_readable": True,
        "clusters_within": [],
        "tablespaces_elsewhere": [],
        "has_conninfo": True,
        "tablespaces": {},
        "system_identifier": 7,
        "timeline": 1,
        "lsn": 500,
        "history": [],
    }
    source: Dict[str, Any] = {
        "backup": {
            "name": "20261129T001817",
            "size": GIB,
            "rate": 0,
            "begin_wal": "000000010000000000000002",
            "finished": 1795911501,
            "version": 15,
            "system_identifier": 7,
            "segment_size": SIZE,
            "tablespaces": {},
            "tablespace_sizes": {},
        },
        "wal": {
            "newest": "000000010000000000000009",
            "bytes": 8 * SIZE,
            "missing": "",
            "later": "",
            "abandoned": 0,
            "behind": GIB,
        },
        "primary": {"timeline": 1, "lsn": 900},
        "verb": "recover",
        "can_delta": False,
        "needs_empty": False,
        "divergence": {"at": 0, "is_ahead": False, "is_known": True},
    }
    is_running = changes.pop("running", None)
    variables = {name: value for name, value in changes.items() if "__" not in name.lstrip("_")}
    for name, value in changes.items():
        kind, _, key = name.partition("__")
        if kind == "found":
            found[key] = value
        elif kind in source and isinstance(source[kind], dict) and key:
            source[kind] = {**source[kind], key: value}
        elif kind == "source":
            source[key] = value
    return {
        "__standby_rebuild_data": DATA,
        "__standby_lsclusters": {"stdout_lines": []},
        "__standby_recorded": {},
        "__standby_rebuild_found": found,
        "__standby_rebuild_barman": "barman",
        "__standby_rebuild_source": source,
        "__standby_rebuild_programs": {"rc": 0},
        "__standby_rebuild_service": {"rc": 0},
        "__standby_rebuild_patroni": {"stdout": "other /etc/patroni/14-main.yml"},
        "__standby_version": 15,
        "__standby_data": DATA,
        "__standby_unit": {"stdout": ""},
        "__standby_rebuild_asked": {"skipped": True},
        "__standby_processes": {"stdout": ""},
        "__standby_data_listing": {"files": []},
        "__standby_running": is_running is not None,
        "__standby_server_answers": is_running is not None,
        "__standby_server_state": {"in_recovery": is_running == "standby"},
        **variables,
    }


AHEAD = {"divergence__at": 400, "divergence__is_ahead": True}


def tablespace(**changes: bool) -> Dict[str, Any]:
    """Return changes for `known`: a tablespace, and what is in its folder."""
    there = {**dict.fromkeys(("is_used", "is_foreign", "is_current", "is_kept", "is_claimed"), False), **changes}
    there = {"is_real": True, "is_apart": True, "can_write": True, **there}
    return {"backup__tablespaces": {"fast": "/srv/fast"}, "found__tablespaces": {"/srv/fast": there}}


def refusals(**changes: Any) -> List[str]:
    return list(value_of("__standby_rebuild_refusals", **known(**changes)))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"running": "standby"},
        # Promoted by mistake: the primary that Barman reaches is another one.
        {"running": "primary", "found__timeline": 2, "divergence__at": 400},
        {"divergence__at": 400, "found__timeline": 2},
        # Two were promoted, and neither knew of the other.
        {"running": "primary", "divergence__at": 400},
        {"divergence__is_known": False},
        # Nothing is left of it.
        {"found__is_there": False, "found__has_version": False, "found__lsn": 0, "found__system_identifier": 0},
        {"found__lsn": 0, "found__has_version": False, "source__primary": None, "found__system_identifier": 0},
        {"found__has_conninfo": False, "standby_primary_conninfo": "host=angus"},
        {"wal__abandoned": 2, "standby_recovery_target_timeline": "1"},
    ],
)
def test_rebuild(changes: Dict[str, Any]) -> None:
    assert refusals(**changes) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"running": "primary"}, "it is the primary"),
        ({"running": "primary", "source__primary": None}, "A primary is never rebuilt"),
        ({"running": "primary", "found__timeline": 2, "source__primary": None}, "Barman reaches no other primary"),
        ({"source__primary": None}, "nobody can say whether"),
        ({**AHEAD}, "WAL that the primary lost .behind 0/190."),
        ({**AHEAD, "running": "primary"}, "it is the primary"),
        (
            {"divergence__at": 400, "found__timeline": 2, "rebuild_discard_old": True},
            "data of its own behind 0/190, and rebuild_discard_old",
        ),
        (
            {"divergence__is_known": False, "rebuild_discard_old": True},
            "no history of timeline 1, on which",
        ),
        ({"__standby_processes": {"stdout": "12 /usr/bin/python3 /usr/bin/patroni /etc/p.yml"}}, "patronictl reinit"),
        # Its data directory is gone, and Patroni does not run.
        (
            {
                "__standby_rebuild_patroni": {"stdout": "other /etc/x.yml\nown /etc/patroni/15-main.yml"},
                "found__has_version": False,
            },
            "patronictl reinit",
        ),
        ({"__standby_processes": {"stdout": "12 /usr/bin/stolon-keeper"}}, "stolon-keeper manages it"),
        ({"running": "standby", "__standby_server_answers": False}, "runs there and does not answer"),
        ({"__standby_rebuild_programs": {"rc": 127, "stdout": ""}}, "PostgreSQL 15 is not installed"),
        (
            {"__standby_rebuild_programs": {"rc": 1, "stdout": "/usr/bin/postgres\n/usr/bin/psql\n"}},
            "rsync is not installed",
        ),
        ({"__standby_rebuild_service": {"rc": 1}}, "nobody knows which service starts"),
        # Debian's postgresql.service starts and stops all clusters of a host.
        (
            {"__standby_lsclusters": {"stdout_lines": ["15 other 5432 online postgres /srv/other x"]}},
            "Set standby_service",
        ),
        ({"found__system_identifier": 8}, "is of another cluster"),
        (
            {"wal__missing": "000000010000000000000005", "wal__later": "000000010000000000000006"},
            "has a gap: 000000010000000000000005",
        ),
        ({"wal__missing": "000000010000000000000002"}, "with which the backup begins"),
        ({"wal__behind": GIB + 1}, "ends 1.00 GB before the primary .with 000000010000000000000009."),
        ({"wal__abandoned": 2}, "Remove 00000002.history"),
        (
            {"__standby_lsclusters": {"stdout_lines": [f"14 main 5432 down postgres {DATA} x"]}},
            "/etc/postgresql/14/main. is of another version than the backup, which is of PostgreSQL 15",
        ),
        ({"found__is_link": True}, "is a link"),
        ({"found__is_mount": True}, "the root of a filesystem"),
        ({"found__can_write": False}, "may not make"),
        (
            {"found__rooms": [room(), room(GIB, "/srv/fast", old=GIB)]},
            r"no room: the copy needs 2.00 GB in /srv/fast, and 1.00 GB are free\. With rebuild_discard_old=true",
        ),
        ({"found__rooms": [room(old=GIB), room(GIB, "/srv/fast")]}, "and 1.00 GB are free$"),
        ({"found__is_readable": False}, "cannot read or write"),
        (
            {"found__has_version": False, "found__system_identifier": 0, "found__clusters_within": [f"{DATA}/main"]},
            f"holds other data directories .{DATA}/main.",
        ),
        ({"found__system_identifier": 0, "rebuild_discard_old": True}, "nobody can say of which cluster"),
        ({"found__has_conninfo": False}, "Set standby_primary_conninfo"),
        ({"rebuild_tablespaces": {"slow": "/srv/slow"}}, "names slow, which the backup does not have, only none"),
        (tablespace(is_used=True), "/srv/fast is not empty"),
        (tablespace(is_apart=False), "/srv/fast, the folder of a tablespace, lies in another folder of the copy"),
        (
            {
                "backup__tablespaces": {"fast": "/srv/fast", "slow": "/srv/slow"},
                "rebuild_tablespaces": {"slow": "/srv/fast/"},
            },
            "two tablespaces, or one and the copy, would lie in one folder",
        ),
        ({**tablespace(), "rebuild_tablespaces": {"fast": DATA}}, "two tablespaces, or one and the copy, would lie"),
        ({**tablespace(), "rebuild_tablespaces": {"fast": f"{DATA}.rebuild"}}, "two tablespaces, or one and the copy,"),
    ],
)
def test_refusal(changes: Dict[str, Any], words: str) -> None:
    assert any(re.search(words, each) for each in refusals(**changes)), refusals(**changes)


@pytest.mark.parametrize(
    ("what", "discards", "words"),
    [
        ([], False, ""),
        (["is_used", "is_current"], False, "a tablespace of the old data directory, which is kept"),
        (["is_used", "is_current"], True, ""),
        (["is_used", "is_claimed"], False, ""),
        (["is_used", "is_claimed"], True, ""),
        (["is_used", "is_kept"], False, "of an old data directory that is kept in"),
        (["is_used", "is_kept"], True, "of an old data directory that is kept in"),
        # Of another server of this host, or of one that was lost: nobody can say.
        (["is_used"], False, "is not empty"),
        (["is_used"], True, "is not empty"),
        (["is_used", "is_foreign", "is_claimed"], False, "is not empty"),
        (["is_used", "is_foreign", "is_current"], True, "is not empty"),
    ],
)
def test_used_tablespace(what: List[str], discards: bool, words: str) -> None:
    """Write over what the old data directory has, if it is to go, and a begun copy."""
    found = refusals(**tablespace(**dict.fromkeys(what, True)), rebuild_discard_old=discards)
    assert len(found) == bool(words), found
    assert words in "".join(found)


@pytest.mark.parametrize(
    ("moved", "copies"),
    [
        ({}, {DATA: 700, "/srv/fast": 300}),
        ({"fast": "/mnt/fast/"}, {DATA: 700, "/mnt/fast": 300}),
        # It is refused, with a word on it.
        ({"slow": "/srv/slow"}, {DATA: 700, "/srv/fast": 300, "/srv/slow": 0}),
    ],
)
def test_bytes_of_each_folder(moved: Dict[str, str], copies: Dict[str, int]) -> None:
    changes = {**tablespace(), "backup__tablespace_sizes": {"fast": 300}, "backup__size": 1000}
    assert value_of("__standby_rebuild_copies", **known(**changes, rebuild_tablespaces=moved)) == copies


PLACED = {"found__placed": "20261128T001817"}


@pytest.mark.parametrize(
    ("changes", "is_placed"),
    [
        ({}, False),
        (PLACED, True),
        ({**PLACED, "rebuild_backup": "20261128T001817"}, True),
        ({**PLACED, "source__primary": None}, True),
        # Another backup is asked for; something has happened to the copy since.
        ({**PLACED, "rebuild_backup": "20261129T001817"}, False),
        ({**PLACED, "found__timeline": 2, "divergence__at": 400}, False),
        ({**PLACED, "found__has_version": False}, False),
    ],
)
def test_placed_copy(changes: Dict[str, Any], is_placed: bool) -> None:
    """Go on behind the copy of an interrupted run, which needs no room any more."""
    assert value_of("__standby_rebuild_is_placed", **known(**changes)) == is_placed
    plan = value_of("__standby_rebuild_plan", **known(**changes))
    assert ("made by an interrupted run, of backup 20261128T001817" in plan[2]) == is_placed
    full = tablespace(is_used=True)
    assert bool(refusals(**full, found__rooms=[room(0)], **changes)) != is_placed


@pytest.mark.parametrize(
    ("changes", "is_delta"),
    [
        ({}, False),
        ({"rebuild_discard_old": True}, False),
        ({"source__can_delta": True}, False),
        ({"source__can_delta": True, "rebuild_discard_old": True}, True),
        ({"source__can_delta": True, "rebuild_discard_old": True, "found__is_there": False}, False),
        ({"source__can_delta": True, "found__is_begun": True}, True),
    ],
)
def test_delta(changes: Dict[str, Any], is_delta: bool) -> None:
    assert value_of("__standby_rebuild_is_delta", **known(**changes)) == is_delta


@pytest.mark.parametrize(
    ("changes", "is_understood"),
    [
        ({}, True),
        ({"backup__name": "--help"}, False),
        ({"backup__name": "a b"}, False),
        ({"backup__begin_wal": "x"}, False),
        ({"source__verb": "sh"}, False),
        ({"wal__newest": "../x"}, False),
        ({"backup__tablespaces": {"fast": "/srv/fast"}}, True),
        ({"backup__tablespaces": {"a:b": "/srv/fast"}}, False),
        ({"backup__tablespaces": {"fast": "/srv/../etc"}}, False),
        ({"backup__tablespaces": {"fast": "/srv/$(id)"}}, False),
        ({"backup__tablespaces": {"fast": "relative"}}, False),
    ],
)
def test_words_of_barman_host(changes: Dict[str, Any], is_understood: bool) -> None:
    """Use nothing that a Barman host says in another form than the usual one."""
    assert value_of("__standby_rebuild_is_understood", **known(**changes)) == is_understood


@pytest.mark.parametrize(
    ("given", "recorded", "clusters", "version", "found"),
    [
        ("/srv/pg/", "", [], "", ["/srv/pg"]),
        ("", "/srv/recorded", [f"15 main 5432 down postgres {DATA} x"], "", ["/srv/recorded"]),
        ("", "", [f"15 main 5432 down <unknown> {DATA} x"], "", [DATA]),
        ("", "", [f"15 main 5432 down <unknown> {DATA} x", "14 main 5433 down <unknown> /old x"], "15", [DATA]),
        ("", "", [f"15 main 5432 down <unknown> {DATA} x", "14 main 5433 down <unknown> /old x"], "", [DATA, "/old"]),
        ("", "", [], "", []),
    ],
)
def test_data_directory(given: str, recorded: str, clusters: List[str], version: str, found: List[str]) -> None:
    assert (
        value_of(
            "__standby_rebuild_candidates",
            standby_data_directory=given,
            standby_postgres_version=version,
            __standby_recorded_data=recorded,
            __standby_lsclusters={"stdout_lines": clusters},
        )
        == found
    )


def test_plan() -> None:
    rooms = [room(), room(3 * GIB, "/srv/fast")]
    plan = "\n".join(value_of("__standby_rebuild_plan", **known(backup__rate=2 * MIB, found__rooms=rooms)))
    assert "backup: 20261129T001817 of angus on barman, 1.00 GB" in plan
    assert "copy: barman recover, about 8 min at 2.00 MB/s (the rate at which Barman took it)" in plan
    assert f"room: 10.00 GB for 2.00 GB in {DATA}, 3.00 GB for 2.00 GB in /srv/fast\n" in plan
    assert f"old data directory: 1.00 GB, kept in {DATA}.rebuild" in plan


def test_second_barman_host() -> None:
    """Take the first that has a backup."""
    source = known()["__standby_rebuild_source"]
    answers = {"barman": {"error": "it has no backup that is DONE"}, "barman2": source}
    assert value_of("__standby_rebuild_barman", __standby_rebuild_barmans=answers) == "barman2"
    answers = {"barman": {"error": "it has no backup"}, "barman2": {"error": "not understood"}}
    assert value_of("__standby_rebuild_barman", __standby_rebuild_barmans=answers) == ""
    texts = [
        value_of(
            "__standby_rebuild_errors", __standby_rebuild_barmans=answers, __standby_rebuild_found={"placed": each}
        )
        for each in ("", "20261129T001817")
    ]
    assert texts[0] == "barman: it has no backup; barman2: not understood"
    assert texts[1].startswith(f"{texts[0]} (an interrupted run has put a copy of it in place; rebuild_backup names")


def test_specification() -> None:
    specs = load(ROLE / "meta/argument_specs.yml")["argument_specs"]
    own = {name for name in specs["rebuild"]["options"] if name.startswith("rebuild_")}
    assert own == {"rebuild_confirm", "rebuild_backup", "rebuild_discard_old", "rebuild_tablespaces"}
    assert set(specs["rebuild"]["options"]) - own == set(specs["main"]["options"])
