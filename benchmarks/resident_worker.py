"""What a round costs on Flower's deployment engine, with and without the resident worker, over Flower's own floor.

Real processes on loopback (TLS, registered nodes, process isolation). The floor is an app whose clients answer an empty
message and whose server looks for replies as often as ours. The base model is made to take ten seconds to load.
``python -m benchmarks.resident_worker``
"""

import itertools
import json
import statistics
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from common.config import RunConfig, Scalar
from server_app.results.folder import RunFolder
from workbench.cli.command_line import run_command
from workbench.deployment.demo import demo_sites
from workbench.deployment.federation import DeploymentError, LocalFederation, Site
from workbench.deployment.processes import Processes
from workbench.stopping import terminate_as_interrupt

_NODES = 2
_RUN_SECONDS = 3600.0
_SLOW_MODEL = '''
import importlib.util, sys, time
from importlib.abc import MetaPathFinder


class Slow(MetaPathFinder):
    """Makes the embedded model take {seconds} s to load, like a large one from a disk."""

    def find_spec(self, name, path=None, target=None):
        if name != "common.demo.model":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module

        def slow(module):
            run(module)
            load = module.load_model
            module.load_model = lambda *arguments: time.sleep({seconds}) or load(*arguments)

        spec.loader.exec_module = slow
        return spec


sys.meta_path.insert(0, Slow())
'''
_FLOOR_PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "floor"
version = "1.0.0"
dependencies = []
[tool.flwr.app]
publisher = "benchmark"
[tool.flwr.app.components]
serverapp = "floor_server:app"
clientapp = "floor_client:app"
[tool.flwr.app.config]
rounds = 1
nodes = 1
output = ""
"""
_FLOOR_CLIENT = """
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message, context):
    return Message(RecordDict(), reply_to=message)
"""
_FLOOR_SERVER = """
import json, time
from pathlib import Path
from flwr.app import Message, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()


@app.main()
def main(grid, context):
    settings, seconds = context.run_config, []
    while len(nodes := list(grid.get_node_ids())) < settings["nodes"]:
        time.sleep(0.5)
    for _ in range(settings["rounds"]):
        began = last = time.monotonic()
        asked = [Message(content=RecordDict(), dst_node_id=node, message_type="train", ttl=600.0) for node in nodes]
        waiting = set(grid.push_messages(asked))
        while waiting:
            came = list(grid.pull_messages(waiting))
            waiting -= {reply.metadata.reply_to_message_id for reply in came}
            now = time.monotonic()
            last = now if came else last
            if waiting:
                time.sleep(min(max((now - last) / 10, 0.03), 1.0))
        seconds.append(time.monotonic() - began)
    Path(settings["output"]).write_text(json.dumps(seconds))
"""


class Bench:
    """One federation under a folder, and the runs measured on it."""

    def __init__(self, federation: LocalFederation) -> None:
        self.federation = federation
        self._floor_app = federation.folder / "floor"
        self._floor_app.mkdir()
        files = {"pyproject.toml": _FLOOR_PROJECT, "floor_client.py": _FLOOR_CLIENT, "floor_server.py": _FLOOR_SERVER}
        for name, text in files.items():
            (self._floor_app / name).write_text(text, encoding="utf-8")
        self.sites = demo_sites(federation.folder / "data")[:_NODES]

    def start(self) -> None:
        """SuperLink and nodes, with workers."""
        self.federation.start_superlink()
        self.federation.start_server_superexec()
        for site in self.sites:
            self.federation.register(site)
            self.federation.start_node(site)

    def without_workers(self) -> None:
        """Start the nodes again, told to load everything for every message."""
        for site in self.sites:
            self.federation.processes.stop(site.name)
            self.federation.start_node(Site(site.name, {**site.node_config, "worker-idle-seconds": 0}))

    def floor(self, rounds: int) -> list[float]:
        """Seconds of each round of empty messages."""
        path = self.federation.folder / "floor.json"
        settings: dict[str, Scalar] = {"rounds": rounds, "nodes": _NODES, "output": str(path)}
        self._run(self.federation.submit(settings, self._floor_app))
        return list(json.loads(path.read_text(encoding="utf-8")))

    def ours(self, rounds: int, name: str) -> list[float]:
        """Seconds of each private training round of this app: everything between two lines of its metrics."""
        config = RunConfig.parse(
            {
                "num-server-rounds": rounds,
                "federation.num-clients": _NODES,
                "privacy.epsilon": 0.0,
                "privacy.noise-multiplier": 4.0,
                "privacy.sampling-rate": 1.0,
                "stage-one.sampling-rate": 1.0,
                "evaluation.every": rounds + 1,
                "output.dir": str(self.federation.folder / "results"),
                "output.name": name,
            }
        )
        self._run(self.federation.submit(config))
        rows = RunFolder(Path(config.output.dir) / name).read_metrics()
        elapsed = [
            row["elapsed"] for row in rows if 1 <= row["round"] < config.num_server_rounds
        ]  # the last is evaluated
        return [after - before for before, after in itertools.pairwise(elapsed)]

    def _run(self, run: int) -> None:
        status = self.federation.wait(run, _RUN_SECONDS)["status"]
        if status != "finished:completed":
            raise DeploymentError(f"run {run} ended as {status}: {self.federation.run_log(run)[-2000:]}")


def main(
    rounds: Annotated[int, typer.Option(help="rounds measured in each of the three runs")] = 8,
    load_seconds: Annotated[float, typer.Option(help="how long the base model takes to load")] = 10.0,
    bare_rounds: Annotated[int, typer.Option(help="rounds measured without a worker")] = 2,
) -> None:
    """Print the seconds of a round: floor, with the worker, floor again, without a worker."""
    with terminate_as_interrupt(), tempfile.TemporaryDirectory(prefix="dr-encoder-bench-") as scratch:
        folder = Path(scratch)
        (folder / "sitecustomize.py").write_text(_SLOW_MODEL.format(seconds=load_seconds), encoding="utf-8")
        with Processes(folder / "logs") as processes:
            bench = Bench(LocalFederation(folder, processes, {"PYTHONPATH": str(folder)}))
            bench.start()
            before = bench.floor(rounds)
            worker = bench.ours(rounds + 2, "worker")
            after = bench.floor(rounds)
            bench.without_workers()
            bare = bench.ours(bare_rounds + 2, "bare")
    floor = statistics.median(before + after)
    for name, seconds in (("floor before", before), ("worker", worker), ("floor after", after), ("no worker", bare)):
        middle = statistics.median(seconds)
        spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
        typer.echo(
            f"{name:14} median {middle:6.2f} s  ({spread}, {len(seconds)} rounds)  over floor {middle / floor:.2f}"
        )


if __name__ == "__main__":
    run_command(main)
