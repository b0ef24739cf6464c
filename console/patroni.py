"""Ask Patroni for the members of a cluster, and for the restore_command they share."""

import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import yaml
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .hosts import Cluster
from .text import ConsoleError, NotUnderstood, printable

# Seconds that patronictl may take.
LIMIT = 30
# Clusters that are asked at once.
MOST_ASKED = 16
# The columns of the table.
COLUMNS = ("member", "role", "state", "timeline", "lag in MiB")
# Under which names patronictl tells the lag. From 4.1 on there are two.
LAGS = ("Lag in MB", "Replay Lag")
# The roles of those that lead, and the states of those that run.
LEADERS = ("Leader", "Standby Leader")
RUNNING = ("running", "streaming", "in archive recovery")


class Members(NamedTuple):
    """Hold what Patroni says of one cluster.

    cluster: its scope. rows: the texts of each member, one for each of COLUMNS.
    problem: why its members would not restore from Barman, or an empty text.
    """

    cluster: str
    rows: tuple[tuple[str, ...], ...]
    problem: str = ""


def survey(clusters: Iterable[Cluster]) -> list[Members]:
    """Ask one member of each Patroni cluster; the next one where it does not answer."""
    members: dict[str, list[Cluster]] = {}
    for cluster in clusters:
        if cluster.standby.patroni_file:
            members.setdefault(cluster.standby.barman_server, []).append(cluster)
    with ThreadPoolExecutor(MOST_ASKED) as pool:
        return list(pool.map(_ask_one_of, members.values()))


def _ask_one_of(members: Sequence[Cluster]) -> Members:
    """Return what the first member says that answers, or the last error."""
    found = Members("", ())
    for member in members:
        found = _ask(member)
        if found.rows:
            break
    return found


def _ask(cluster: Cluster) -> Members:
    """Return what patronictl says on one member."""
    try:
        members = parse_members(cluster.host.name, _patronictl(cluster, "list", "-f", "json"))
        text = parse_command(cluster.host.name, _patronictl(cluster, "show-config"))
        return members._replace(problem=explain(text, cluster.standby.restore_command))
    except ConsoleError as error:
        return Members(cluster.standby.barman_server, (), str(error))


def _patronictl(cluster: Cluster, *words: str) -> str:
    standby = cluster.standby
    environment = ("env", f"PATH={standby.patroni_path}", "LC_ALL=C.UTF-8")
    return cluster.host.run(
        *environment, "patronictl", "-c", standby.patroni_file, *words, user=standby.postgres_user, limit=LIMIT
    )


def read_configuration(cluster: Cluster) -> str:
    """Return the member's configuration file. Raises ConsoleError."""
    return cluster.host.run("cat", "--", cluster.standby.patroni_file, user=cluster.standby.postgres_user)


def parse_configuration(host: str, text: str) -> dict[str, Any]:
    """Return what a configuration file has. No error shows its text: it has secrets.

    Raises NotUnderstood.
    """
    try:
        settings = yaml.safe_load(text)
    except (RecursionError, ValueError, yaml.YAMLError):
        settings = None
    if not isinstance(settings, dict) or not isinstance(settings.get("tags") or {}, dict):
        raise NotUnderstood(host, "Patroni's configuration file")
    return settings


def find_identity(host: str, text: str) -> tuple[str, str]:
    """Return scope and name of the member with this configuration; "" for neither.

    They may be in its environment instead. Raises NotUnderstood.
    """
    settings = parse_configuration(host, text)
    return str(settings.get("scope") or ""), str(settings.get("name") or "")


def versions(cluster: Cluster, scope: str, member: str) -> str:
    """Return what patronictl says of the versions that run on a member.

    Raises ConsoleError.
    """
    return _patronictl(cluster, "version", scope, member)


def dynamic_configuration(cluster: Cluster) -> dict[str, Any]:
    """Return the dynamic configuration of a member's cluster. Raises ConsoleError."""
    return parse_dynamic(cluster.host.name, _patronictl(cluster, "show-config"))


def count_replicas(cluster: Cluster) -> int:
    """Return how many replicas run in a member's cluster. Raises ConsoleError."""
    members = parse_members(cluster.host.name, _patronictl(cluster, "list", "-f", "json"))
    return sum(row[1] not in LEADERS and row[2] in RUNNING for row in members.rows)


def parse_members(host: str, output: str) -> Members:
    """Return the members in the output of patronictl list -f json.

    Raises NotUnderstood.
    """
    try:
        found = json.loads(output)
        rows = tuple(_row(member) for member in found)
        return Members(str(found[0]["Cluster"]), rows)
    except (IndexError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise NotUnderstood(host, f"patronictl list answers {output[:200]}") from error


def _row(member: dict[str, Any]) -> tuple[str, ...]:
    """Return the texts of one member. Raises KeyError, TypeError."""
    lag = next((str(member[name]) for name in LAGS if name in member), "")
    return (str(member["Member"]), str(member["Role"]), str(member["State"]), str(member.get("TL", "")), lag)


def parse_dynamic(host: str, output: str) -> dict[str, Any]:
    """Return the dynamic configuration in the output of patronictl show-config.

    Raises NotUnderstood.
    """
    try:
        dynamic = yaml.safe_load(output) or {}
    except (RecursionError, ValueError, yaml.YAMLError):
        dynamic = None
    if not isinstance(dynamic, dict):
        raise NotUnderstood(host, f"patronictl show-config answers {output[:200]}")
    return dynamic


def parse_command(host: str, output: str) -> str:
    """Return restore_command in the output of patronictl show-config.

    Raises NotUnderstood.
    """
    settings = parse_dynamic(host, output).get("postgresql") or {}
    try:
        return str((settings.get("recovery_conf") or {}).get("restore_command") or "")
    except AttributeError as error:
        raise NotUnderstood(host, f"patronictl show-config answers {output[:200]}") from error


def explain(found: str, deployed: str) -> str:
    """Return why members with this restore_command would not restore, or "".

    >>> explain("", "barman-wal-restore …")
    'the dynamic configuration has no restore_command: deploy again'
    """
    if found == deployed:
        return ""
    has = f"another restore_command: {found}" if found else "no restore_command"
    return f"the dynamic configuration has {has}: deploy again"


def table(clusters: Sequence[Members]) -> RenderableType:
    """Return one line for each member, and below them what is wrong."""
    lines: list[RenderableType] = []
    for members in clusters:
        shown = Table(
            title=Text(f"Patroni: {printable(members.cluster)}"), title_justify="left", box=None, pad_edge=False
        )
        for name in COLUMNS:
            shown.add_column(name, overflow="fold")
        for row in members.rows:
            shown.add_row(*(Text(printable(word)) for word in row))
        lines += [shown] if members.rows else []
        lines += [Text(printable(f"{members.cluster}: {members.problem}"), "red")] if members.problem else []
    return Group(*lines)
