"""A passive observer of real TLS connections, one byte-counting relay before each site: what cover traffic hides."""

import asyncio
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import Field, nothing_left
from workbench.deployment.federation import LocalFederation
from workbench.deployment.processes import Processes
from workbench.simulation.launcher import free_ports

pytestmark = pytest.mark.faults
BURST = 50_000  # bytes: an instruction holds about 100 kB, polling for one far less


class Relay:
    """Passes bytes between a site and the SuperLink, whose TLS it cannot read, and notes when how many came down."""

    def __init__(self, port: int, upstream: int) -> None:
        self.port, self._upstream = port, upstream
        self.seen: list[tuple[float, int]] = []

    async def serve(self) -> None:
        await asyncio.start_server(self._join, "127.0.0.1", self.port)

    async def _join(self, site: asyncio.StreamReader, to_site: asyncio.StreamWriter) -> None:
        try:
            link, to_link = await asyncio.open_connection("127.0.0.1", self._upstream)
        except OSError:
            to_site.close()
            return
        await asyncio.gather(self._pass(site, to_link, None), self._pass(link, to_site, self.seen))

    @staticmethod
    async def _pass(
        source: asyncio.StreamReader, sink: asyncio.StreamWriter, seen: list[tuple[float, int]] | None
    ) -> None:
        try:
            while data := await source.read(65536):
                if seen is not None:
                    seen.append((time.time(), len(data)))
                sink.write(data)
                await sink.drain()
        except OSError:
            pass
        finally:
            sink.close()

    def down(self, start: float, end: float) -> int:
        return sum(count for when, count in list(self.seen) if start <= when <= end)


@contextmanager
def relaying(relays: Iterable[Relay]) -> Iterator[None]:
    """The relays at work in a thread of their own; no task outlives it, to be collected while something else runs."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        for relay in relays:
            asyncio.run_coroutine_threadsafe(relay.serve(), loop).result(10.0)
        yield
    finally:
        asyncio.run_coroutine_threadsafe(_all_cancelled(), loop).result(10.0)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _all_cancelled() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


class Watched(Field):
    """A federation whose sites dial through a relay each."""

    relays: dict[str, Relay]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder: Path = tmp_path_factory.mktemp("federation")
    with nothing_left(folder), Processes(folder / "logs") as processes:
        field = Watched(LocalFederation(folder, processes))
        federation, upstream = field.federation, int(field.federation.address.rpartition(":")[2])
        field.relays = {name: Relay(port, upstream) for name, port in zip(field.sites, free_ports(3), strict=True)}
        with relaying(field.relays.values()):
            federation.start_superlink()
            federation.start_server_superexec()
            for name, site in field.sites.items():
                federation.register(site)
                federation.fleet_address = f"127.0.0.1:{field.relays[name].port}"
                federation.start_node(site)
            yield field


def bursts(field: Watched, name: str) -> dict[tuple[str, int], int]:
    """Bytes down by (site, round), between the round's beginning and its end."""
    found = {}
    ends = {row["round"]: row["time"] for row in field.events(name, "round_finished")}
    for row in field.events(name, "round_started"):
        start, end = (datetime.fromisoformat(text).timestamp() for text in (row["time"], ends[row["round"]]))
        found |= {(site, row["round"]): relay.down(start - 0.5, end) for site, relay in field.relays.items()}
    return found


def run(field: Watched, name: str, **changes: Any) -> int:
    config = field.config(name, rounds=5, **{"privacy.sampling-rate": 0.5, "strategy.name": "lora", **changes})
    number = field.federation.submit(config)
    state = field.federation.wait(number, 1800.0)
    assert state["status"] == "finished:completed", field.federation.run_log(number)[-3000:]
    return number


def members(field: Watched, name: str) -> list[int]:
    return [row["cohort"] for row in field.folder(name).read_metrics() if row["round"]]


def test_a_byte_counter_finds_the_cohorts_without_cover(watched: Watched) -> None:
    number = run(watched, "seen")
    seen = bursts(watched, "seen")
    print(f"OBSERVED without cover: {seen}, cohorts {members(watched, 'seen')}")
    counted = [sum(seen[site, index] > BURST for site in watched.relays) for index in range(1, 6)]
    assert counted == members(watched, "seen")
    answered = watched.answers(number)
    for index in range(1, 6):
        assert counted[index - 1] == sum(1 for (_, of) in answered if of == index)


def test_with_cover_it_sees_everybody_in_every_round(watched: Watched) -> None:
    run(watched, "covered", **{"federation.cover": True})
    seen = bursts(watched, "covered")
    print(f"OBSERVED with cover: {seen}, cohorts {members(watched, 'covered')}")
    assert min(seen.values()) > BURST
    for index in range(1, 6):  # the first message to a site brings the app along, 2 MB: to everybody at once
        counts = [seen[site, index] for site in watched.relays]
        assert max(counts) < 1.05 * min(counts), "the rest is polling"
    assert sum(members(watched, "covered")) < 15, "by chance everybody was in every cohort (3e-5)"
