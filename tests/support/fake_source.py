"""Play a Barman host for what asks a Source (walbasin.remote.source)."""

from walbasin.remote.gate_connection import FetchHandler

from tests.support.wal_builder import build_segment


class FakeSource:
    """Collect requests, and reply when the test says so."""

    def __init__(self) -> None:
        self.handlers: dict[str, FetchHandler] = {}
        self.requested: list[str] = []
        self.another_way = False
        self.capacity = 99
        self.ready = True
        self.tuned: list[tuple[int, int]] = []

    def is_ready(self) -> bool:
        return self.ready

    def has_capacity(self, in_flight: int) -> bool:
        return in_flight < self.capacity

    def request(self, handler: FetchHandler) -> None:
        self.requested.append(handler.name)
        self.handlers[handler.name] = handler

    def has_another_way(self, name: str, error: Exception) -> bool:
        return self.another_way

    def on_stored(self, name: str) -> None:
        pass

    def busy_connections(self) -> int:
        return 1

    def tune(self, seconds: float, connections: int, size: int) -> None:
        self.tuned.append((connections, size))

    def tick(self) -> None:
        pass

    def ask_others(self) -> bool:
        return False

    def must_be_polled(self) -> bool:
        return False

    # What the test does.

    def begin(self, name: str, content: bytes) -> None:
        self.handlers[name].write(content)

    def complete(self, name: str, error: Exception | None = None) -> None:
        self.handlers.pop(name).on_complete(error)

    def bring(self, name: str, content: bytes | None = None) -> None:
        self.begin(name, build_segment(name) if content is None else content)
        self.complete(name)
