"""The pages of ``benchmarks.reproduction``: every number in them is computed, none is typed."""

import math
from collections.abc import Callable, Iterable, Sequence

from benchmarks.paper_tables import (
    LLAMA,
    QWEN,
    SETTINGS,
    Row,
    Setting,
    claimed_epsilon,
    library_epsilon,
    matches,
    renyi_epsilon,
    true_epsilon,
)
from benchmarks.printed_mechanism import PrintedMechanism, composed_epsilon

SMALL_DELTA, SMALL_DELTA_TEXT = 1e-5, "10⁻⁵"
CASES = ((LLAMA, LLAMA.rounds), (QWEN, QWEN.rounds), (QWEN, QWEN.rdp_rounds))
"""Settings and the T of the RDP column: as Table 1 states it, and for Qwen also as Table 3 needs it."""
COHORTS = (5, 10)
"""Assumed values of K: the paper does not print M."""
TENSORS = (2, 256)
DELTAS = f"1/{LLAMA.samples} (LLaMA) and 1/{QWEN.samples} (Qwen)"


def table3_page() -> str:
    """Both columns of Table 3 beside ours, and the two T's of Qwen."""
    first = QWEN.rows[0]
    four, five = (renyi_epsilon(QWEN, QWEN.sigma(first), rounds) for rounds in (QWEN.rounds, QWEN.rdp_rounds))
    return f"""# Table 3, recomputed

A value matches if it reads the same at the two decimals that the paper prints; a residual is ours − printed. δ is
1 / number of training samples (Table 1): {DELTAS}. The row σ = 0, ε = ∞ holds by definition.

## GDP column

Equation (7), μ = p·√T·√(e^(1/σ²) − 1), and the exact conversion of μ-GDP to (ε, δ). The paper fixes ε and solves for σ,
so the left half is the test; the right half puts the printed, rounded σ back in and shows what the rounding costs.

{_gdp_table()}
## RDP column

Poisson-sampled Gaussian, orders 1.1 to 10.9 in steps of 0.1 and 12 to 63, ε = min over α of
r + ln(1 − 1/α) − ln(δα)/(α − 1). The column comes out at the *unrounded* σ (solved from the GDP ε, T as in Table 1), in
general not at the printed one. "Library" is `common.privacy.accounting.rdp_epsilon` (dp_accounting) at the unrounded σ:
an upper bound, equal at p = 1 and at whole orders, slightly above at fractional orders of a sampled mechanism.

{_rdp_table()}
Rows that match:

{_rdp_counts()}
## Qwen: four rounds or five?

Table 1 states T = {QWEN.rounds}. Rows of Table 3 that match under each reading:

{_round_counts()}
No single T gives both columns: σ belongs to T = {QWEN.rounds}, the RDP ε to T = {QWEN.rdp_rounds}.
At σ = {first.sigma:.2f} the paper prints {first.rdp:.2f}; T = {QWEN.rounds} gives {four:.2f},
T = {QWEN.rdp_rounds} gives {five:.2f}.
"""


def claimed_page() -> str:
    """The ε that the paper claims beside the true one: of the mechanism it analyses and of the one it prints."""
    return f"""# What the paper claims and what its mechanism gives

All at the unrounded σ of each row (see [table3.md](table3.md)), zero-out adjacency, three significant digits.

## The mechanism that the paper analyses

T Gaussian releases of noise multiplier σ, each on a Poisson sample of rate p. "Claimed" is equation (7), a central
limit; "true" is the privacy loss distribution (a tight upper bound; exact for p = 1). The paper claims only at
δ = {DELTAS}; at δ = {SMALL_DELTA_TEXT} "claimed" is the same formula there.
A ratio above 1 means that the formula understates.

{_claims_table()}
## The mechanism that the paper prints

Equations (1) to (5): each client adds N(0, 4σ²/K²) to every clipped factor, whatever C is; here C = 1. A and B of every
layer are clipped one by one, so that one client moves all n_t factors together by up to √n_t. If all K clients add
their noise, the mean of their messages is a Gaussian mechanism of noise multiplier z = 2σ/(√K·√n_t), and one message,
which the server sees, is one of z = 2σ/(K·√n_t). ε is composed exactly over the T of Table 1 for a client that takes
part in all rounds, without amplification, at δ = {DELTAS}. Equation (5) averages
products of noisy factors; these figures are for the mean of the factors themselves.

K = p·M, and **the paper does not print M: {_choices("K", COHORTS)} is our assumption**.
n_t = {TENSORS[0]} is A and B of one layer; n_t = {TENSORS[1]} is LLaMA-7B with LoRA on q, k, v, o of 32 layers
(assumed for Qwen too).

Towards outsiders, who see the mean:

{_printed_table(lambda mechanism: mechanism.mean_multiplier)}
Towards the server, which sees every message:

{_printed_table(lambda mechanism: mechanism.message_multiplier)}
Stage 1 sends means and standard deviations of the gradients in the clear, so the end-to-end ε is infinite anyway.
"""


def readme_page(command: str) -> str:
    """What the folder is, and the findings with their figures."""
    row, first = next(row for row in LLAMA.rows if row.gdp == 2), LLAMA.rows[0]
    sigma = LLAMA.sigma(row)
    small_true, small_claim = true_epsilon(LLAMA, sigma, SMALL_DELTA), claimed_epsilon(LLAMA, sigma, SMALL_DELTA)
    one, every = (_mechanism(LLAMA, row, COHORTS[0], tensors) for tensors in TENSORS)
    return f"""# The paper's privacy analysis, reproduced

Every page here, this one included, is written by

```
{command}
```

- [table3.md](table3.md): Table 3 beside our values, with residuals.
- [claimed.md](claimed.md): the ε that the paper claims beside the true one.
- [figure1.csv](figure1.csv): the data of the figure below.

## Findings

1. GDP column: {_matching_sigmas(LLAMA, LLAMA.rounds)} σ of LLaMA and {_matching_sigmas(QWEN, QWEN.rounds)} of Qwen come out of equation (7).
2. RDP column: LLaMA {_matching(LLAMA, LLAMA.rounds)}, at the unrounded σ and with exact divergences (dp_accounting's bound gives
   {library_epsilon(LLAMA, LLAMA.sigma(first), LLAMA.rounds):.2f} where {first.rdp:.2f} is printed). Qwen {_matching(QWEN, QWEN.rounds)} with the stated T = {QWEN.rounds}, {_matching(QWEN, QWEN.rdp_rounds)} with T = {QWEN.rdp_rounds}.
3. The claim is no bound: LLaMA at a claimed ε = {row.gdp:g} really has {_significant(true_epsilon(LLAMA, sigma, LLAMA.delta))}, and at δ = {SMALL_DELTA_TEXT} it has {_significant(small_true)}
   where the same formula says {_significant(small_claim)}. For Qwen (p = 1) it overstates: {QWEN.rows[0].gdp:g} for {_significant(true_epsilon(QWEN, QWEN.sigma(QWEN.rows[0]), QWEN.delta))}.
4. The mechanism as printed: at that claimed ε = {row.gdp:g}, if K = {COHORTS[0]} (assumed), stage 2 gives {_composed(LLAMA, one.mean_multiplier)} towards outsiders and
   {_composed(LLAMA, one.message_multiplier)} towards the server for one layer, {_composed(LLAMA, every.mean_multiplier)} and {_composed(LLAMA, every.message_multiplier)} for all {TENSORS[1]} factors (not amplified).
5. Stage 1 in the clear makes the end-to-end ε infinite whatever stage 2 does.

## Figure 1

RDP ε accumulated over the steps at δ = {DELTAS}, unrounded σ. The text of the paper has
no values of its figure to compare with; the ends of our curves are the RDP column of its Table 3.

![RDP epsilon over the steps, one curve for every sigma of Table 3](figure1.png)
"""  # noqa: E501 - the line breaks are those of the page


def _gdp_table() -> str:
    rows = [
        [
            setting.name,
            f"{row.gdp:.2f}",
            f"{row.sigma:.2f}",
            *_compared(setting.sigma(row), row.sigma),
            *_compared(claimed_epsilon(setting, row.sigma, setting.delta), row.gdp),
        ]
        for setting in SETTINGS
        for row in setting.rows
    ]
    verdict = ["residual", "match"]
    return _table(["setting", "ε printed", "σ printed", "σ solved", *verdict, "ε at printed σ", *verdict], rows)


def _rdp_table() -> str:
    rows = [
        [
            setting.name,
            str(rounds),
            f"{row.sigma:.2f}",
            f"{setting.sigma(row):.4f}",
            f"{row.rdp:.2f}",
            *_compared(renyi_epsilon(setting, setting.sigma(row), rounds), row.rdp),
            *_compared(renyi_epsilon(setting, row.sigma, rounds), row.rdp),
            *_compared(library_epsilon(setting, setting.sigma(row), rounds), row.rdp),
        ]
        for setting, rounds in CASES
        for row in setting.rows
    ]
    head = ["setting", "T", "σ printed", "σ unrounded", "ε printed"]
    for title in ("ε at unrounded σ", "ε at printed σ", "library"):
        head += [title, "residual", "match"]
    return _table(head, rows)


def _rdp_counts() -> str:
    rows = [
        [
            f"{setting.name}, T = {rounds}",
            _matching(setting, rounds),
            _count(matches(renyi_epsilon(setting, row.sigma, rounds), row.rdp) for row in setting.rows),
            _count(matches(library_epsilon(setting, setting.sigma(row), rounds), row.rdp) for row in setting.rows),
        ]
        for setting, rounds in CASES
    ]
    return _table(["", "unrounded σ", "printed σ", "library, unrounded σ"], rows)


def _round_counts() -> str:
    pair = (QWEN.rounds, QWEN.rdp_rounds)
    rows = [
        [f"T = {solved}", f"T = {summed}", _matching_sigmas(QWEN, solved), _matching(QWEN, summed, solved)]
        for solved in pair
        for summed in pair
    ]
    return _table(["σ solved with", "RDP composed over", "σ column", "RDP column"], rows)


def _claims_table() -> str:
    head = ["setting", "σ printed"]
    for where in ("", f", δ = {SMALL_DELTA_TEXT}"):
        head += [f"claimed{where}", f"true{where}", f"true / claimed{where}"]
    rows = []
    for setting in SETTINGS:
        for row in setting.rows:
            cells = [setting.name, f"{row.sigma:.2f}"]
            for delta in (setting.delta, SMALL_DELTA):
                claimed, true = (of(setting, setting.sigma(row), delta) for of in (claimed_epsilon, true_epsilon))
                cells += [_significant(value) for value in (claimed, true, true / claimed)]
            rows.append(cells)
    return _table(head, rows)


def _printed_table(multiplier: Callable[[PrintedMechanism], float]) -> str:
    columns = [(cohort, tensors) for tensors in TENSORS for cohort in COHORTS]
    head = [
        "setting",
        "σ printed",
        "claimed ε",
        *(f"n_t = {tensors}, K = {cohort}: ε (z)" for cohort, tensors in columns),
    ]
    rows = []
    for setting in SETTINGS:
        for row in setting.rows:
            values = [multiplier(_mechanism(setting, row, *column)) for column in columns]
            cells = [f"{_composed(setting, value)} ({_significant(value)})" for value in values]
            rows.append([setting.name, f"{row.sigma:.2f}", f"{row.gdp:g}", *cells])
    return _table(head, rows)


def _mechanism(setting: Setting, row: Row, cohort: int, tensors: int) -> PrintedMechanism:
    return PrintedMechanism(sigma=setting.sigma(row), cohort=cohort, tensors=tensors, clip_norm=1.0)


def _composed(setting: Setting, multiplier: float) -> str:
    return _significant(composed_epsilon(multiplier, setting.rounds, setting.delta))


def _matching_sigmas(setting: Setting, rounds: int) -> str:
    return _count(matches(setting.sigma(row, rounds), row.sigma) for row in setting.rows)


def _matching(setting: Setting, rounds: int, solved: int | None = None) -> str:
    return _count(matches(renyi_epsilon(setting, setting.sigma(row, solved), rounds), row.rdp) for row in setting.rows)


def _count(verdicts: Iterable[bool]) -> str:
    found = list(verdicts)
    return f"{sum(found)} of {len(found)}"


def _compared(value: float, printed: float) -> list[str]:
    residual = round(value - printed, 4) + 0.0  # never −0
    return [f"{value:.4f}", f"{residual:+.4f}", "yes" if matches(value, printed) else "**no**"]


def _significant(value: float) -> str:
    """Three significant digits, never in powers of ten."""
    places = 2 - math.floor(math.log10(value))
    return f"{round(value, places):,.{max(0, places)}f}"


def _choices(name: str, values: Iterable[int]) -> str:
    return " or ".join(f"{name} = {value}" for value in values)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(cells)} |\n" for cells in [head, ["---"] * len(head), *rows])
