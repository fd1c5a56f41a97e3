"""The edge of the command line: what is told in a line or two, and what keeps its traceback."""

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from common.config import ConfigError
from server_app.errors import CommandError
from workbench.cli import main as cli
from workbench.cli.command_line import PlainGroup, main_with_plain_errors, plain_errors, stopped
from workbench.version import app_version

runner = CliRunner()
WHY = ", since nobody reads its output"


def told(error: BaseException, capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    with pytest.raises(SystemExit) as ended, plain_errors():
        raise error
    return ended.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ConfigError("codec.size = 0: too small"), 1, "error: codec.size = 0: too small\n"),
        (CommandError("nobody answers"), 1, "error: nobody answers\n"),
        (PermissionError(13, "Permission denied", "/srv/x"), 1, "error: /srv/x: Permission denied\n"),
        (OSError("a hub's words\nand a page of more"), 1, "error: a hub's words\n"),
        (OSError(), 1, "error: OSError\n"),
        (typer.BadParameter("no key"), 2, "error: Invalid value: no key\n"),
        (KeyboardInterrupt(), 130, "\nstopped\n"),
    ],
)
def test_what_a_person_can_mend_is_a_line_and_an_exit_code(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told(error, capsys) == (code, said)


def test_what_a_library_logs_of_a_model_s_files_commands_no_terminal(tmp_path: Path) -> None:
    """transformers warns of a quantization that it does not know, in the words of config.json."""
    log = logging.FileHandler(tmp_path / "log")
    library = logging.getLogger("transformers.quantizers.auto")
    library.addHandler(log)
    try:
        with plain_errors():
            library.warning("Unknown quantization type, got %s - supported are: %s", "x\x1b]0;title\x07\x9b2J", ["awq"])
            try:
                raise ValueError("a pickle asks for \x1b]0;title\x07")
            except ValueError:
                library.exception("the model could not be loaded")
    finally:
        library.removeHandler(log)
        log.close()
    said = (tmp_path / "log").read_text(encoding="utf-8")
    first, _, trace = said.partition("\n")
    assert first == "Unknown quantization type, got x\\x1b]0;title\\x07\\x9b2J - supported are: ['awq']"
    assert trace.startswith("the model could not be loaded\nTraceback")
    assert trace.endswith("ValueError: a pickle asks for \\x1b]0;title\\x07\n")


@pytest.mark.parametrize(
    "words",
    [
        ["run", "--gpus-per-client", "nan"],
        ["compare", "--budget-hours", "nan"],
        ["chat", "--adapter", "a", "--temperature", "NaN"],
        ["budget", "--clients", "9", "--rounds", "1", "--sampling-rate", "nan"],
    ],
)
def test_what_is_no_number_is_refused_wherever_a_number_is_asked_for(words: list[str]) -> None:
    result = runner.invoke(cli.app, words)
    assert (result.exit_code, result.output.splitlines()[0]) == (
        2,
        f"error: Invalid value for '{words[-2]}': nan is not a number.",
    )


@pytest.mark.parametrize("error", [ValueError("a defect"), KeyError("x"), RuntimeError("y")])
def test_a_defect_keeps_its_traceback(error: Exception) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(type(error)):
        main_with_plain_errors(fail)
    app = typer.Typer(cls=PlainGroup, pretty_exceptions_enable=False)
    app.command()(fail)
    app.command("other")(lambda: None)
    assert runner.invoke(app, ["fail"]).exception is error


def test_what_a_model_makes_a_library_raise_commands_no_terminal() -> None:
    """A chat template says anything by ``raise_exception``, and a pickle by the names that it asks for."""
    raising = (
        "from workbench.cli.command_line import main_with_plain_errors\n"
        "def fail():\n"
        "    raise ValueError('evil \\x1b]0;title\\x07\\x9b2J')\n"
        "main_with_plain_errors(fail)\n"
    )
    done = subprocess.run([sys.executable, "-c", raising], capture_output=True, check=False)
    said = done.stderr.decode()
    assert done.returncode == 1
    assert said.startswith("Traceback")
    assert said.endswith("ValueError: evil \\x1b]0;title\\x07\\x9b2J\n")


def test_ctrl_c_ends_with_130_and_a_word() -> None:
    def wait() -> None:
        raise KeyboardInterrupt

    app = typer.Typer(cls=PlainGroup)
    app.command()(wait)
    app.command("other")(lambda: None)
    result = runner.invoke(app, ["wait"])
    assert (result.exit_code, result.output) == (130, "\nstopped\n")


@pytest.mark.parametrize(
    "module", ["workbench.deployment.demo", "workbench.deployment.submit", "benchmarks.experiment"]
)
def test_every_program_has_that_edge(module: str, tmp_path: Path) -> None:
    wrong = {
        "workbench.deployment.demo": ["--output", "/dev/null/x"],
        "workbench.deployment.submit": ["--config", str(tmp_path / "absent.toml"), "here"],
        "benchmarks.experiment": ["--set", "codec"],
    }
    done = subprocess.run(
        [sys.executable, "-m", module, *wrong[module]], capture_output=True, text=True, check=False,
        cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert done.returncode in (1, 2)
    assert done.stderr.splitlines()[-1].startswith(("error: ", "`"))
    assert "Traceback" not in done.stderr


def test_the_version_is_that_of_the_project() -> None:
    result = runner.invoke(cli.app, ["--version"])
    assert (result.exit_code, result.output) == (0, f"dr-encoder {app_version()}\n")


def test_without_a_command_the_help_is_shown() -> None:
    result = runner.invoke(cli.app, [])
    assert result.exit_code == 2
    assert "budget" in result.output
    assert "--version" in result.output


def test_help_names_the_presets_and_the_least_number_of_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    from workbench.cli.main import app  # noqa: PLC0415 - the whole program

    monkeypatch.setenv("COLUMNS", "200")
    assert "fedlpp" in runner.invoke(app, ["run", "--help"]).output
    assert "x>=3" in runner.invoke(app, ["compare", "--help"]).output


def test_keys_are_printed_with_what_they_may_be() -> None:
    output = runner.invoke(cli.app, ["keys", "privacy.trust"]).output
    assert 'privacy.trust = "distributed"    [central, distributed, local, secure]' in output.splitlines()
    everything = runner.invoke(cli.app, ["keys"]).output
    assert "privacy.sampling-rate = 0.1    [number > 0 and ≤ 1]" in everything
    assert f"strategy.name = {json.dumps('dr-encoder')}    [dr-encoder, fedcg, " in everything
    assert "presets (run --preset NAME): demo, " in everything


def test_a_filter_is_never_passed_over() -> None:
    result = runner.invoke(cli.app, ["keys", "--markdown", "codec"])
    assert (result.exit_code, result.output) == (
        1,
        'error: --markdown prints the whole page: leave out "codec", or --markdown\n',
    )


def test_ctrl_c_while_the_interpreter_ends_is_quiet() -> None:
    leaving = (
        "import atexit, sys, time\n"
        "from workbench.program import main\n"
        "atexit.register(lambda: (print('leaving', flush=True), time.sleep(60)))\n"
        "sys.argv = ['dr-encoder', '--version']\n"
        "main()\n"
    )
    command = [sys.executable, "-c", leaving]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        while process.stdout.readline() != "leaving\n":
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == ""
    assert process.returncode == -signal.SIGINT, "which a shell tells as 130"


def test_ctrl_c_while_the_program_loads_is_a_word() -> None:
    """The signal comes when the command line's own file is looked for, as early as an import of it can be."""
    loading = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell may have had it ignored
        "class Finder:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'workbench.cli.main':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from workbench.program import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", loading], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "\nstopped\n")


@pytest.mark.parametrize(("error", "code", "why"), [(KeyboardInterrupt(), 130, ""), (BrokenPipeError(), 1, WHY)])
def test_what_is_stopped_says_how_to_go_on(
    error: KeyboardInterrupt | BrokenPipeError, code: int, why: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with os.fdopen(os.dup(1), "w") as kept:
        ended = stopped(error, "; go on with: that")
        os.dup2(kept.fileno(), 1)
    assert (ended.exit_code, capfd.readouterr().err) == (code, f"\nstopped{why}; go on with: that\n")


def test_a_run_whose_output_nobody_reads_says_how_to_go_on(tmp_path: Path) -> None:
    place = ["--set", f"output.dir={tmp_path}", "--set", "output.name=a", "--set", "num-server-rounds=9"]
    command = [sys.executable, "-m", "workbench.program", "run", "--engine", "inline", *place]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        while not process.stdout.readline().startswith("round   1"):
            assert process.poll() is None
        process.stdout.close()
        said = process.stderr.read()
    assert process.returncode == 1
    assert said.endswith(
        f"\nstopped{WHY}; continue with: dr-encoder run --resume {tmp_path / 'a'} --engine inline\n"
    ), said
    assert "Traceback" not in said
    assert "Exception ignored" not in said
