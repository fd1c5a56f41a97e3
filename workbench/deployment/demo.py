"""``make deploy-demo``: three sites, each with its own data and key, train over Flower's deployment engine on loopback.

Everything is started as on real machines and stopped again: no process, port, socket or key is left, whether the run
completes, fails or is interrupted. What stays is the results folder with the logs of every process.
"""

import json
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from common.config import RunConfig, Scalar
from common.demo.tasks import training_examples
from common.private_files import private_files
from server_app.results.folder import RunFolder
from server_app.results.output_place import check_output
from server_app.results.resuming import why_not_resumable, why_other_clients
from server_app.results.tracking import watched
from server_app.results.units import MARK, bytes_against_lora, show, show_delta, use_utf8
from workbench.cli.command_line import run_command
from workbench.deployment.federation import DeploymentError, LocalFederation, Site
from workbench.deployment.processes import Processes
from workbench.saying import say
from workbench.simulation.launcher import APP, LaunchError, read_resumed
from workbench.simulation.traffic import add_traffic, describe
from workbench.stopping import kept, terminate_as_interrupt

SITES = ("north", "south", "west")
_ROWS = 120
_RUN_SECONDS = 1200.0
_LOG_SECONDS = 5.0


def demo(
    rounds: Annotated[int, typer.Option(help="communication rounds", min=1)] = 3,
    output: Annotated[Path, typer.Option(help="where results go")] = Path("results"),
    name: Annotated[str, typer.Option(help="folder of this run; left out: made from the time")] = "",
    resume: Annotated[Path | None, typer.Option(help="continue the interrupted run in this results folder")] = None,
) -> None:
    """Run a TLS federation of three authenticated SuperNodes on this machine, from certificates to results."""
    config = resumed_config(resume.resolve()) if resume else demo_config(rounds, output.resolve(), name)
    check_output(config.output, config.resume)
    results = Path(config.output.dir) / config.output.name
    with (
        private_files(),
        terminate_as_interrupt(),
        tempfile.TemporaryDirectory(prefix="dr-encoder-deploy-") as scratch,
        kept(Path(scratch)),
    ):
        folder = Path(scratch)
        try:
            with Processes(folder / "logs") as processes:
                run, state = _run(LocalFederation(folder, processes), config)
            failure = "" if state["status"] == "finished:completed" else f"the run ended as {state['status']}"
        except DeploymentError as error:
            failure = str(error)
        except KeyboardInterrupt:
            failure = f"interrupted; {_how_to_go_on(results)}"
        finally:
            _keep_logs(folder / "logs", results)
    if failure:
        say(f"error: {failure} (logs of all processes: {results / 'logs'})", fg=typer.colors.RED, err=True)
        raise typer.Exit(1)
    _summarize(RunFolder(results), add_traffic(RunFolder(results), {run: state["network-traffic"]}))


def demo_config(rounds: int, output: Path, name: str = "") -> RunConfig:
    """Three sites in every round, whose messages the server sees the sum of, with noise that their policies accept."""
    changes = {
        "num-server-rounds": rounds,
        "federation.num-clients": len(SITES),
        "privacy.epsilon": 0.0,
        "privacy.noise-multiplier": 1.0,
        "privacy.trust": "secure",
        "privacy.dropouts": 1,
        "privacy.sampling-rate": 1.0,
        "stage-one.sampling-rate": 1.0,
        "server.learning-rate": 0.03,  # .015 K/z, less for what one missing site is allowed for
        "output.dir": str(output),
        "output.name": name,
    }
    config = RunConfig.parse(changes)
    return RunConfig.parse({**changes, "output.name": config.folder_name()})


def resumed_config(results: Path) -> RunConfig:
    """The configuration under which the run in ``results`` is continued; ``LaunchError`` where none was started."""
    saved = read_resumed(results)
    why = why_not_resumable(results) or why_other_clients(results, "deployed")
    if why:
        raise LaunchError(f'resume = "{results}": {why}')
    place = {"resume": str(results), "output.dir": str(results.parent), "output.name": results.name}
    return RunConfig.parse(saved | place)


def demo_sites(folder: Path) -> list[Site]:
    """Three sites with a private file and a ledger each; the last one sets a limit of its own.

    Each has a key that the other two have pinned. Their ``max-epsilon`` is 0, no limit, which they must say: at this
    noise a few rounds cost more than anybody would sign, and the rows are the demo's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    keys = {name: _make_key(folder / f"{name}-key") for name in SITES}
    sites = []
    for number, name in enumerate(SITES):
        path = folder / f"{name}.jsonl"
        rows = training_examples("elicitation", _ROWS, number).to_list()
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        node_config: dict[str, Scalar] = {"partition-id": number, "num-partitions": len(SITES), "data-path": str(path)}
        node_config["max-epsilon"] = 0.0
        peers = folder / f"{name}-peers"
        peers.write_text("".join(f"{key} {peer}\n" for peer, key in keys.items() if peer != name), encoding="utf-8")
        node_config |= {"site-key": str((folder / f"{name}-key").resolve()), "peers": str(peers.resolve())}
        node_config["require-secure-aggregation"] = True
        ledger = folder / f"{name}-ledger.jsonl"
        _make_ledger(ledger)
        node_config["ledger-path"] = str(ledger.resolve())
        if name == SITES[-1]:
            node_config["max-releases"] = 100
        sites.append(Site(name, node_config))
    return sites


def _make_ledger(path: Path) -> None:
    _as_a_site_does("client_app.new_ledger", path)


def _make_key(path: Path) -> str:
    """A site's key for secure aggregation; its public half, which the other sites pin."""
    return _as_a_site_does("client_app.new_site_key", path).strip()


def _as_a_site_does(module: str, path: Path) -> str:
    """With the client's own command, once; what it prints."""
    command = [sys.executable, "-m", module, str(path.resolve())]
    done = subprocess.run(command, cwd=APP, check=True, stdout=subprocess.PIPE, encoding="utf-8")  # noqa: S603
    return done.stdout


def _run(federation: LocalFederation, config: RunConfig) -> tuple[int, dict[str, Any]]:
    say(f"SuperLink with TLS on {federation.address}, certificates and keys made for this run only")
    federation.start_superlink()
    for site in demo_sites(federation.folder / "data"):
        federation.register(site)
        federation.start_node(site)
        say(f'SuperNode "{site.name}" registered and started')
    federation.start_server_superexec()  # the last, so the first to be stopped: no round is run while sites are ended
    run = federation.submit(config)
    say(f"flwr run: run {run}")
    story = _Story(lambda: federation.run_log(run))
    with watched("the run"):
        state = federation.wait(run, _RUN_SECONDS, story.go_on)
    story.tell()
    return run, state


class _Story:
    """The app's own lines of a log that grows, each printed once, as soon as it is found there.

    Args:
        read: the log so far; asked for every few seconds only, for it costs a process.

    """

    def __init__(self, read: Callable[[], str]) -> None:
        self._read, self._told, self._next = read, 0, 0.0

    def go_on(self) -> None:
        """Tell what is new, if it is time to look."""
        if time.monotonic() >= self._next:
            self.tell()
            self._next = time.monotonic() + _LOG_SECONDS

    def tell(self) -> None:
        """Tell what is new."""
        lines = [line.split(MARK, 1)[1] for line in self._read().splitlines() if MARK in line]
        for line in lines[self._told :]:
            say(line)
        self._told = max(self._told, len(lines))


def _how_to_go_on(results: Path) -> str:
    command = f"python -m workbench.deployment.demo --resume {shlex.quote(str(results))}"
    return why_not_resumable(results) or f"continue with: {command}"


def _keep_logs(logs: Path, results: Path) -> None:
    if logs.is_dir():
        shutil.copytree(logs, results / "logs", dirs_exist_ok=True)


def _summarize(folder: RunFolder, traffic: dict[str, Any]) -> None:
    report = json.loads((folder.path / "report.json").read_text(encoding="utf-8"))
    epsilon = report["privacy"]["released_model"]
    wire = report["communication"]
    rounds = report["run"]["rounds_run"]
    say(
        f"\nRounds {rounds}, epsilon of the released model {show(epsilon['epsilon'])} "
        f"at delta {show_delta(epsilon['delta'])}\n"
        f"  bytes of a client        {bytes_against_lora(wire['per_client_run'], wire['per_client_run_plain_lora'])}\n"
        f"  Flower's own count       {describe(traffic)}\n"
        f"  results                  {folder.path} (report.md, adapter/, logs/)\n"
        f"{_warnings(report['outcome'])}"
        "Three sites cannot hide in a crowd: at this noise the model learns little. What is shown is the deployment."
    )


def _warnings(outcome: dict[str, Any]) -> str:
    return "".join(f"  WARNING: {text}\n" for text in (outcome["warning"], outcome["shortage_warning"]) if text)


if __name__ == "__main__":
    use_utf8()
    run_command(demo)
