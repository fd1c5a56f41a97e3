"""``dr-encoder evaluate`` from within."""

from pathlib import Path

from typer.testing import CliRunner

from workbench.cli import main as cli

runner = CliRunner()


def evaluate(adapter: Path, *options: str) -> tuple[int, str]:
    result = runner.invoke(cli.app, ["evaluate", "--adapter", str(adapter), *options])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def refused(adapter: Path, *options: str) -> str:
    code, output = evaluate(adapter, *options)
    assert code == 1
    assert output.startswith("error: ")
    return output
