"""Flower's superexec, but that no other user of the machine can read the tokens of what it starts.

Flower 1.41 writes a task's token on the command line of its process, which every user of a machine can read. Who has it
speaks to the SuperNode as the ClientApp does: takes the instruction, and puts back the site's node configuration
without its limits. Here the process gets it in a file without a name, by the descriptor. And a ClientApp's process is
``clientapp``. What a SuperLink may ask for besides, agents, models and connectors, this app does not have: a run that
says so would have a site start Flower's process for agents, which loads bundles in its own way. Everything else
is Flower's: ``python -P -m workbench.deployment.superexec`` takes the arguments of
``flower-superexec``.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from flwr.supercore.cli import flower_superexec
from flwr.supercore.constant import TASK_TYPE_TO_APPIO_API_ADDRESS_ARG, TASK_TYPE_TO_COMMAND, TaskType
from flwr.supercore.superexec.executor import factory
from flwr.supercore.superexec.executor.subprocess_executor import SubprocessExecutor
from flwr.supercore.superexec.executor.types import ExecutionSpec, LaunchResult

_TASKS = {TaskType.SERVER_APP, TaskType.CLIENT_APP, TaskType.SIMULATION}
_CLIENT_APP = (sys.executable, "-P", "-m", "workbench.deployment.clientapp")


class PrivateTokens(SubprocessExecutor):
    """Starts this app's tasks as Flower's own does, with the token in a file that their process alone holds."""

    def get_eligible_capacity(
        self,
        supported_task_types: set[TaskType],
        *,
        insecure: bool = False,
        root_certificates_path: str | None = None,
    ) -> tuple[set[TaskType], set[str]]:
        """The tasks that are asked for at all: of the kinds that this app has."""
        found, bundles = super().get_eligible_capacity(
            supported_task_types, insecure=insecure, root_certificates_path=root_certificates_path
        )
        return found & _TASKS, bundles

    def launch(self, spec: ExecutionSpec) -> LaunchResult:
        """Start the process of a task."""
        output = subprocess.DEVNULL if spec.suppress_output else None
        with _file_of(spec.token) as descriptor:
            subprocess.Popen(  # noqa: S603 - Flower's own programs, no shell
                _command(spec, f"/proc/self/fd/{descriptor}"), pass_fds=(descriptor,), stdout=output, stderr=output
            )
        return LaunchResult.accepted()


@contextmanager
def _file_of(token: str) -> Iterator[int]:
    """The descriptor of a file in memory, which no other user can open."""
    descriptor = os.memfd_create("token")
    try:
        os.write(descriptor, token.encode())
        yield descriptor
    finally:
        os.close(descriptor)


def _command(spec: ExecutionSpec, token_file: str) -> list[str]:
    """Flower's command line of a task, but for the token, and for the program of a ClientApp."""
    certificates = [] if spec.root_certificates_path is None else ["--root-certificates", spec.root_certificates_path]
    own = _CLIENT_APP if spec.task_type == TaskType.CLIENT_APP else (TASK_TYPE_TO_COMMAND[spec.task_type],)
    return [
        *own,
        *(TASK_TYPE_TO_APPIO_API_ADDRESS_ARG[spec.task_type], spec.runtime_api_address),
        *("--token-file", token_file),
        *(["--insecure"] if spec.insecure else certificates),
        *([] if spec.parent_pid is None else ["--parent-pid", str(spec.parent_pid)]),
        *(["--allow-runtime-dependency-installation"] if spec.runtime_dependency_install else []),
    ]


if __name__ == "__main__":
    factory.SubprocessExecutor = PrivateTokens  # type: ignore[attr-defined]  # there is no other way in
    flower_superexec()
