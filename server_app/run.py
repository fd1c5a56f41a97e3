"""One run from configuration to results: connect, plan, prepare, rounds, report."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from flwr.serverapp import Grid

from common.config import RunConfig
from common.data import check_chat_template, check_evaluation_is_public
from common.model.adapted import load_adapted_model
from common.model.positions import check_length
from common.model.precision import slow_arithmetic
from common.private_files import private_files
from server_app.engine import clients_of
from server_app.log import is_told_to_end, recording
from server_app.privacy.plan import PrivacyPlan
from server_app.privacy.solving import check_shares, make_plan
from server_app.privacy.stage_one import empty_rounds, empty_stage_one
from server_app.results.checkpoints import CheckpointError
from server_app.results.console import ConsoleLog
from server_app.results.folder import RunFolder
from server_app.results.naming import naming
from server_app.results.output_place import check_output
from server_app.results.resuming import (
    Clients,
    check_same_run,
    planned_clients,
    unknown_clients,
    why_not_resumable,
    why_other_clients,
)
from server_app.results.trackers import check_tracker
from server_app.rounds.availability import Attendance, StopAsked, site_names
from server_app.rounds.cohort import connect
from server_app.rounds.controls import Control, control_warning
from server_app.rounds.private_scores import imprecision
from server_app.rounds.state import pack_adapter
from server_app.session import Session
from server_app.strategies import check_strategy, recipe_of, strategy_of
from server_app.strategies.recipe import Recipe


@private_files()
def run_federation(
    grid: Grid,
    config: RunConfig,
    run: int = 0,
    *,
    control: Control = "none",
    plots: bool = True,
    say: ConsoleLog | None = None,
) -> RunFolder:
    """Run the configured strategy to its end and write its results, as private files; returns their folder.

    A file named ``stop`` in that folder ends the run before the next round is charged: then there is no report.

    ``run``: Flower's id of the run, for the structured log; 0 where no SuperLink gave one. ``control``: of an
    experiment, what is kept from the model. ``plots``: whether anybody will look at them; they take seconds. ``say``:
    tells a person; by default in lines that a launcher picks out.
    """
    check_run(config)
    clients_are = clients_of(grid)
    if config.resume and (why := why_other_clients(Path(config.resume), clients_are)):
        raise CheckpointError(f'resume = "{config.resume}": {why}')
    with _resumed_folder(config):
        return _run(grid, config, run, clients_are, control, say or ConsoleLog(), plots=plots)


def _resumed_folder(config: RunConfig) -> AbstractContextManager[None]:
    """The folder of a run that is resumed, held before its model loads, which may take minutes; a new run has none yet.

    Else a second resume would begin meanwhile, and who watches would be told that the run is dead.
    """
    return RunFolder.create(config).held() if config.resume else nullcontext()


def _run(
    grid: Grid, config: RunConfig, run: int, clients_are: Clients, control: Control, say: ConsoleLog, *, plots: bool
) -> RunFolder:
    say.warning(slow_arithmetic(config.model))
    adapted = load_adapted_model(config.model, config.lora, config.seed)
    check_chat_template(config.data, adapted.tokenizer)
    check_length(adapted.model.get_base_model(), config.model.name, config.data.max_length)
    recipe = recipe_of(config, adapted.layout)
    attendance = _attendance(grid, config, say)
    check_evaluation_is_public(config.data, attendance.enrolled, config.seed)
    plan = plan_run(config, recipe, attendance.enrolled)
    folder = RunFolder.create(config)
    attendance.stop_asked = folder.stop.exists
    holding = nullcontext() if config.resume else folder.held()
    with holding, naming(folder.path), recording(folder.events, run, attendance.names):
        session = Session.open(config, adapted, recipe, plan, clients_are, attendance, folder, say)
        try:
            if config.resume:
                session.gather(grid)
            strategy = strategy_of(config)(
                recipe, config, adapted, attendance, session.account, session.state, session.hooks, control=control
            )
            if control != "none":
                say(control_warning(control))
            _tell_plan(session)
            strategy.start(
                grid,
                pack_adapter(session.state.optimizer.adapter),
                num_rounds=config.num_server_rounds,
                timeout=config.federation.round_timeout,
            )
            session.finish(strategy, plots=plots)
        except StopAsked:
            session.stop()
        except BaseException as error:
            session.monitor.write("stopped" if is_told_to_end(error) else "failed")
            raise
    return folder


def _attendance(grid: Grid, config: RunConfig, say: ConsoleLog) -> Attendance:
    """The clients of a new run, once they are connected: a start that fails leaves no folder.

    Of one that is resumed, which waits for them in its folder, how many they are to be.
    """
    if config.resume:
        return Attendance([], {}, config.federation, awaited=planned_clients(Path(config.resume)))
    nodes = connect(grid, config.federation.num_clients, config.federation.connect_timeout, say)
    return Attendance(nodes, site_names(grid), config.federation)


def _tell_plan(session: Session) -> None:
    """Tell a person what is going to happen, and what to mind."""
    config, plan, say = session.config, session.account.plan, session.say
    say.opening(config.strategy.name, plan, session.adapted.layout.size, session.folder.path)
    session.tell_expected()
    if config.resume:
        say.warning(unknown_clients(session.folder.path, session.clients_are))
    else:
        say.warning(empty_rounds(config.privacy.sampling_rate, plan.clients))
        say.warning(empty_stage_one(session.recipe.stage_one, plan.clients, noisy=plan.noisy_stage_one))
        say.warning(imprecision(*plan.score_noise, plan.evaluations, plan.clients))


def check_run(config: RunConfig) -> None:
    """Refuse what can be refused before a model is loaded or a client is waited for."""
    check_strategy(config)
    check_output(config.output, config.resume)
    config.check_files()
    check_tracker(config.output)
    if config.resume:
        check_same_run(config)
        why = why_not_resumable(Path(config.resume))
        if why:  # before its folder is touched: a finished run's log is not written into
            raise CheckpointError(f'resume = "{config.resume}": {why}')
    if config.federation.num_clients:
        check_shares(config, config.federation.num_clients)


def plan_run(config: RunConfig, recipe: Recipe, clients: int) -> PrivacyPlan:
    """The privacy plan of a strategy for a number of enrolled clients; ``ConfigError`` where nothing could be run."""
    return make_plan(config, clients, recipe.code_size, recipe.stage_one)
