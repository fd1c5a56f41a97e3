"""What a site with its own data answers before and around its releases, whoever asks, for neighboring data files.

Whatever a run's configuration says, the kind of the answer, its text or length, and the site's ledger are the same.
"""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client_app import site as site_module
from client_app.rows import rows_allowed
from common.model.adapted import AdaptedModel
from common.privacy.mechanism import ReleaseTerms
from common.wire.records import EVALUATE, STATISTICS, TRAIN
from tests.support.own_site import KEYS, LENGTH, ODD, Seen, SiteUnderTest, write_site_files
from tests.support.tiny import TINY


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_site_files(tmp_path_factory.mktemp("own"))


@pytest.fixture
def site(
    adapted: AdaptedModel, data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> SiteUnderTest:
    """A site with a strict policy; the model is the session's, whatever a run says of it."""
    monkeypatch.setattr(site_module, "load_adapted_model", lambda *_: adapted)
    node = {"data-path": str(data["ordinary"]), "max-epsilon": 20.0, "ledger-path": str(tmp_path / "spent.jsonl")}
    found = SiteUnderTest(adapted, tmp_path, node)
    found.fresh()
    return found


def test_the_ordinary_question_is_answered_and_charged(site: SiteUnderTest) -> None:
    """So that what follows compares releases, and not refusals only."""
    seen = site.ask()
    assert (seen.kind, seen.length) == ("release", LENGTH)
    assert seen.ledger.count(b"\n") == 2


@pytest.mark.parametrize("kind", [TRAIN, STATISTICS, EVALUATE])
@pytest.mark.parametrize("odd", ODD)
def test_no_file_changes_the_answer_of_an_honest_run(
    site: SiteUnderTest, data: dict[str, Path], odd: str, kind: str
) -> None:
    ordinary = site.ask(data["ordinary"], kind)
    site.fresh()
    assert site.ask(data[odd], kind) == ordinary
    assert ordinary.kind == "release"


def values_of(default: Any) -> st.SearchStrategy[Any]:
    """What may be written at a key: of its type for the most part."""
    if isinstance(default, bool):
        return st.booleans()
    if isinstance(default, int):
        return st.integers(-1, 40)
    if isinstance(default, float):
        return st.sampled_from([0.0, 0.5, 1.0, 3.0, 1e9, -1.0])
    words = [
        "",
        "columns",
        "dolly",
        "hiv_note",
        "diagnosis",
        "completion",
        "/etc/passwd",
        "demo",
        "a/b",
        "local",
        "lora",
    ]
    return st.sampled_from(words) | st.text(max_size=8)


@pytest.mark.parametrize("key", sorted(KEYS))
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chosen=st.data())
def test_no_key_of_a_run_makes_the_answer_tell_of_the_rows(
    site: SiteUnderTest, data: dict[str, Path], key: str, chosen: st.DataObject
) -> None:
    value = chosen.draw(values_of(KEYS[key]) | st.just(KEYS[key]))
    kind = chosen.draw(st.sampled_from([TRAIN, STATISTICS]))
    seen = []
    for odd in ("ordinary", chosen.draw(st.sampled_from(ODD))):
        site.fresh()
        seen.append(site.ask(data[odd], kind, **{key: value}))
    assert seen[0] == seen[1]


def twins(default: Any) -> list[Any]:
    """What is equal to Python and of another type."""
    kinds = (bool, float) if isinstance(default, float) and math.isinf(default) else (bool, int, float)
    return [kind(default) for kind in kinds if kind(default) == default and type(default) is not kind]


@pytest.mark.parametrize("key", sorted(key for key, value in KEYS.items() if isinstance(value, (bool, int, float))))
def test_what_a_process_has_served_before_changes_no_answer(site: SiteUnderTest, key: str) -> None:
    """A kept configuration was found for 1.0 too where it says 1, which is refused: that told of another's rounds."""
    for twin in twins((KEYS | TINY)[key]):
        site.fresh()
        site_module._config.cache_clear()
        alone = site.ask(**{key: twin})
        site.ask()
        site.fresh()
        assert site.ask(**{key: twin}) == alone


# The attacks of the report, each as it was run.


@pytest.mark.parametrize("odd", ["a null elsewhere", "no column", "another column"])
def test_a_column_of_the_servers_choice_tells_nothing_and_costs_nothing(
    site: SiteUnderTest, data: dict[str, Path], odd: str
) -> None:
    """One null cell in 200 rows was found 50 times of 50, and the file's schema was read column by column."""
    before = site.ledger.read_bytes()
    for column in ("diagnosis", "hiv_note", "ssn"):
        seen = {site.ask(data[name], data__completion_column=column) for name in ("ordinary", odd)}
        said = f'PolicyRefusal: this site refuses: data.completion-column = "{column}"; its own is "completion"'
        assert seen == {Seen("error", said, 0, before)}


def test_a_models_own_chat_template_never_runs_and_a_sites_own_does(
    site: SiteUnderTest, data: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ``raise_exception`` a template of the server's model read a number off a row in 17 questions."""
    run: list[str | None] = []
    original = site_module.private_tokens
    tokenizer = site.adapted.tokenizer
    monkeypatch.setattr(tokenizer, "chat_template", "{{ raise_exception('a secret') }}")

    def spy(settings: Any, given: Any, *others: Any) -> Any:
        run.append(given.chat_template)
        return original(settings, given, *others)

    monkeypatch.setattr(site_module, "private_tokens", spy)
    for kept in ("_own_part", "_read_once"):  # nothing of other tests
        monkeypatch.setattr(site_module, kept, getattr(site_module, kept).__wrapped__)
    refused = site.ask(data__chat_template=True)
    assert refused.text == "PolicyRefusal: this site refuses: data.chat-template = true; its own is false"
    assert site.ask().kind == "release"
    template = site.folder / "own.jinja"
    template.write_text("ask: {{ messages[0].content }}")
    site.node["chat-template"] = str(template)
    assert site.ask(data__chat_template=True).kind == "release"
    assert run == [None, "ask: {{ messages[0].content }}"]
    template.unlink()
    assert site.ask(data__chat_template=True).text == (
        "ModelUnavailable: this site cannot load the model, or its own chat template; why is in its own log"
    )
    assert tokenizer.chat_template == "{{ raise_exception('a secret') }}", "the shared one is as it was"


CHATS: dict[str, Any] = {
    "two answers": [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")],
    "a word that the template refuses": [("user", "a"), ("assistant", "secret")],
    "no answer": [("user", "a")],
    "a tool": [("tool", "a"), ("assistant", "b")],
    "no conversation": [],
}


@pytest.mark.parametrize("odd", CHATS)
def test_no_conversation_changes_the_answer_and_only_the_sites_template_writes_it(
    site: SiteUnderTest, odd: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site.adapted.tokenizer, "chat_template", "{{ raise_exception('ran') }}")
    template = site.folder / "own.jinja"
    template.write_text(
        "{% for m in messages %}{% if m.content == 'secret' %}{{ raise_exception('no') }}{% endif %}"
        "{{ '<' + m.role + '>' + m.content }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    site.node |= {"data-format": "chat", "chat-template": str(template)}
    read: list[int] = []
    original = site_module.private_tokens

    def spy(*given: Any) -> Any:
        found = original(*given)
        read.append(len(found))
        return found

    monkeypatch.setattr(site_module, "private_tokens", spy)
    seen = []
    for names in (["two answers"], ["two answers", odd], [odd]):
        rows = [{"messages": [{"role": role, "content": text} for role, text in CHATS[name]]} for name in names]
        path = site.folder / f"{'-'.join(names)}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        site.fresh()
        seen.append(site.ask(path, data__format="chat"))
    assert seen[0].kind == "release"
    assert seen == seen[:1] * 3
    assert read[0] == 1, "and it was read, not given up"


@pytest.mark.parametrize("name", ["evil/model", "/models/other", "demo@" + "0" * 40])
def test_a_model_that_the_site_does_not_list_is_never_loaded(
    site: SiteUnderTest, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(site_module, "load_adapted_model", lambda *_: pytest.fail("loaded"))
    assert "is none of the models of its node config" in site.ask(model__name=name).text


def test_under_local_trust_a_site_that_fails_sends_noise_as_well(site: SiteUnderTest, data: dict[str, Path]) -> None:
    """Silence was told from the zero-out neighbor in the released sum, in 99 % of 256-value rounds."""
    for odd in ("no file", "no rows"):
        assert site.ask(data[odd], terms=ReleaseTerms(64, 1.0, 8.0, "local", 4, normalize=True)).kind == "release"


def test_nobody_learns_from_a_shared_ledger_what_another_run_has_asked(site: SiteUnderTest) -> None:
    """Refusals told a second submitter the first run's secret cohort in 29 of 29 rounds."""
    site.node["max-releases"] = 40
    questions = {
        name: ReleaseTerms(64, 1.0, noise, "local", 4, normalize=True)
        for name, noise in (("beyond", 0.2), ("dear", 0.31), ("cheap", 30.0))
    }
    said: dict[str, set[tuple[str, str, int]]] = {name: set() for name in questions}
    for number in range(29):
        if number % 3:  # run A's secret cohort
            assert site.ask().kind == "release"
        for name, terms in questions.items():  # run B: beyond the limit, near it, far from it
            seen = site.ask(terms=terms)
            said[name].add((seen.kind, seen.text, seen.length))
    assert [len(answers) for answers in said.values()] == [1, 1, 1], "the same each time"
    assert {name: kind for name, ((kind, _, _),) in said.items()} == {
        "beyond": "error", "dear": "release", "cheap": "release"
    }  # fmt: skip
    ((_, text, _),) = said["beyond"]
    assert text.startswith("PolicyRefusal: this site refuses: this message alone would cost epsilon = ")
    last = json.loads(site.ledger.read_bytes().splitlines()[-1])
    assert last["releases"] == 40, "what it released of its data has an end"


def test_after_a_worker_has_died_over_it_a_message_is_answered_without_rows_for_one_charge(
    site: SiteUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the worker that died, or by the next one: fewer charges where rows had killed it let it answer once more."""
    with rows_allowed(True, "one"):
        first = site.ask()
    monkeypatch.setattr(site_module, "private_tokens", lambda *_: pytest.fail("rows were read"))
    with rows_allowed(False, "one"):
        seen = site.ask()
    assert (seen.kind, seen.length) == ("release", LENGTH)
    assert seen.ledger.splitlines()[-1] == first.ledger.splitlines()[-1]
    with rows_allowed(False, "two"):  # whose worker has died before it could charge
        seen = site.ask()
    assert (seen.kind, seen.length) == ("release", LENGTH)
    assert json.loads(seen.ledger.splitlines()[-1])["releases"] == 2


@pytest.mark.parametrize(
    ("changes", "limit"),
    [
        ({"train__local_epochs": 1, "train__local_steps": 0}, "train.local-epochs = 1, above its max-local-epochs = 0"),
        ({"train__local_steps": 33}, "micro-batches = 33, above its max-local-steps = 32"),
        ({"train__local_steps": 4, "train__gradient_accumulation": 9}, "micro-batches = 36, above"),
        ({"train__batch_size": 65}, "train.batch-size = 65, above its max-batch-size = 64"),
        ({"data__max_length": 513}, "data.max-length = 513, above its max-length = 512"),
    ],
)
def test_work_beyond_the_sites_limits_is_refused(site: SiteUnderTest, changes: dict[str, Any], limit: str) -> None:
    """Numbers of rows were read off the time that passes over them take."""
    assert limit in site.ask(**changes).text


def test_a_site_without_a_largest_epsilon_refuses_everything(site: SiteUnderTest) -> None:
    """Its defaults allowed a thousand messages of epsilon 91.8 each."""
    del site.node["max-epsilon"]
    assert "Write the largest epsilon that all its messages together may cost" in site.ask().text


def test_a_site_without_a_ledger_on_its_disk_refuses_everything(site: SiteUnderTest) -> None:
    """In Flower's state it was as large as the server made that, and then lost with it: see ``test_policy``."""
    del site.node["ledger-path"]
    assert "its node config has data-path and no ledger-path" in site.ask().text


def test_a_ledger_that_vanished_is_no_fresh_start(site: SiteUnderTest) -> None:
    site.ask()
    spent = site.ledger.read_bytes()
    site.ledger.rename(site.folder / "rotated")
    site.node["ledger-path"] = str(site.folder / "elsewhere.jsonl")
    site.ledger.write_bytes(spent)
    assert "its ledger cannot be read, so what it has spent is unknown" in site.ask().text
    assert not (site.folder / "elsewhere.jsonl").exists()
