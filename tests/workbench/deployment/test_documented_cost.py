"""What docs/deployment.md says that its example costs a site is what the site's ledger would count."""

import re
import tomllib

from client_app.site_ledger import SiteLedger
from common.config import RunConfig, flatten
from server_app.privacy.solving import make_plan
from server_app.privacy.stage_one import statistics_stage
from workbench.simulation.launcher import APP


def test_the_run_that_is_shown_costs_each_site_what_is_written() -> None:
    page = (APP / "docs" / "deployment.md").read_text(encoding="utf-8")
    (written,) = re.findall(r"cost each site ε = ([\d.]+) against the server", page)
    shown = next(text for text in re.findall(r"```toml\n(.*?)```", page, re.DOTALL) if "num-server-rounds" in text)
    config = RunConfig.parse(flatten(tomllib.loads(shown)))
    stage, size = statistics_stage(config.stage_one, 24), config.codec.size
    plan = make_plan(config, config.federation.num_clients, size, stage)
    ledger = SiteLedger().after(plan.stage_one_terms(stage))
    for _ in range(config.num_server_rounds):
        ledger = ledger.after(plan.round_terms(size))
    assert f"{ledger.epsilon(1e-5):.2f}" == written
