"""Test that what is fetched ahead in the foreground never harms what is asked for."""

from types import SimpleNamespace
from typing import Any

import pytest
from walbasin.fetcher import foreground
from walbasin.remote.errors import RemoteError


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError(9, "Bad file descriptor"), "internal error, please report it: the spool: Bad file descriptor"),
        (RemoteError("it failed"), "it failed"),
        (KeyError("x"), "internal error, please report it: the spool: 'x'"),
    ],
)
def test_error_of_the_spool(error: Exception, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Any:
        raise error

    spool: Any = SimpleNamespace(names=fail)
    archive: Any = SimpleNamespace(remote=None, peek_for=lambda *_: "")
    sessions: list[Any] = []
    monkeypatch.setattr(foreground, "Session", lambda *words: sessions.append(words))
    prefetch = foreground.ForegroundPrefetch(
        spool=spool, archive=archive, requested="000000010000000000000001", jobs=4, size=16 << 20
    )
    loop: Any = SimpleNamespace(add=lambda _: None)
    prefetch.start(loop)
    *_, on_end = sessions[0]
    on_end(None)
    assert len(prefetch.errors) == 1
    assert words in prefetch.errors[0]
