"""Files and templates of strategy public-prior: what is refused before anything starts, by key, value and place."""

from pathlib import Path

import pytest

from common.config import ConfigError
from tests.support.tiny import checked

PROMPTS = "public-prior.prompts"


@pytest.mark.parametrize(("name", "right"), [("prompts.txt", "one prompt a line"), ("words.TOML", "a TOML file")])
@pytest.mark.parametrize(
    ("held", "why"),
    [
        (None, "no such file"),
        ("a folder", "this is no file"),
        (bytes(range(128, 256)) * 100, "this is no text in UTF-8 (invalid start byte at byte 0)"),
        (b" \n\n", "the file is empty"),
    ],
)
def test_a_file_of_the_prior_that_cannot_be_read_is_refused_with_key_value_and_what_is_right(
    tmp_path: Path, name: str, right: str, held: bytes | str | None, why: str
) -> None:
    path = tmp_path / name
    if isinstance(held, bytes):
        path.write_bytes(held)
    elif held:
        path.mkdir()
    changes = {"strategy.name": "public-prior", PROMPTS: str(path)}
    with pytest.raises(ConfigError) as refusal:
        checked(changes)
    assert f'{PROMPTS} = "{path}": {why}; give ' in str(refusal.value)
    assert right in str(refusal.value)
    assert len(str(refusal.value)) < 400
    checked({**changes, "strategy.name": "lora"})  # which does not read it


def check_prior_file(path: Path, text: str, changes: dict[str, object] | None = None) -> None:
    path.write_text(text, encoding="utf-8")
    checked({"strategy.name": "public-prior", PROMPTS: str(path), **(changes or {})})


XY = {"public-prior.template": "is {x} {y} ?"}


@pytest.mark.parametrize(
    ("name", "text", "changes"),
    [
        ("p.txt", "who ?\nwhat ?\n\nwhy ?\n", {}),
        ("p.jsonl", '{"prompt": "who ?", "more": 1}\n"what ?"\n\n"why ?"\n', {}),
        ("s.toml", 'relation = ["colour", "size", "kind"]\nsubject = ["wolf"]\n', {}),
        ("s.toml", 'y = ["cat", "dog"]\nx = ["red", "blue"]\nunread = 3\n', XY),
    ],
)
def test_files_of_the_prior_that_fit_are_accepted(
    tmp_path: Path, name: str, text: str, changes: dict[str, object]
) -> None:
    check_prior_file(tmp_path / name, text, changes)


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("p.txt", "a\n\nb\na\n", "it gives 2 different prompts, and a pseudo-client has 3"),
        ("p.jsonl", '"a"\n"b"\n', "it gives 2 different prompts, and a pseudo-client has 3"),
        ("p.jsonl", '"a"\n\nnull\n"b"\n', "the prompt of line 3 is null, where a text is needed"),
        ("p.jsonl", '7\n"a"\n', "the prompt of line 1 is 7, where a text is needed"),
        ("p.jsonl", '"a"\n["b", "c"]\n', 'the prompt of line 2 is ["b", "c"], where a text is needed'),
        ("p.jsonl", '{"prompt": null}\n', "the prompt of line 1 is null, where a text is needed"),
        ("p.jsonl", '"a"\n" "\n', 'the prompt of line 2 is " ", where a text is needed'),
        ("p.jsonl", '{"text": "a"}\n', 'line 1 has no "prompt"'),
        ("p.jsonl", '"a"\nb\n', "line 2 is no JSON (Expecting value: line 1 column 1 (char 0))"),
        ("s.toml", 'x = "gold"\ny = ["a", "b", "c"]\n', 'its x = "gold" is no list of words'),
        ("s.toml", 'x = [1, 2, 3]\ny = ["a", "b", "c"]\n', "its x = [1, 2, 3] is no list of words"),
        ("s.toml", "x = []\ny = []\n", "its x = [] is no list of words"),
        ("s.toml", 'x = ["a", "b", "c"]\n', 'it has no words for the slot "y"'),
        ("s.toml", 'x = ["a", "a", "b"]\ny = ["c"]\n', "it gives 2 different prompts, and"),
        ("s.toml", "x = [", "Invalid value"),
    ],
)
def test_a_file_of_the_prior_that_does_not_fit_is_refused_with_what_and_where(
    tmp_path: Path, name: str, text: str, why: str
) -> None:
    with pytest.raises(ConfigError) as refusal:
        check_prior_file(tmp_path / name, text, XY)
    assert f'{PROMPTS} = "{tmp_path / name}": {why}' in str(refusal.value)
    assert "; give " in str(refusal.value)


@pytest.mark.parametrize("template", ["hello {", "hello }", "hello {a"])
def test_a_template_that_cannot_be_parsed_is_refused_by_key(template: str, tmp_path: Path) -> None:
    changes = {"strategy.name": "public-prior", "public-prior.template": template}
    with pytest.raises(ConfigError) as refusal:
        checked(changes)
    assert f'public-prior.template = "{template}": ' in str(refusal.value)
    assert "write every slot as {name}" in str(refusal.value)
    (tmp_path / "p.txt").write_text("who ?\nwhat ?\nwhy ?\n")
    checked({**changes, PROMPTS: str(tmp_path / "p.txt")})  # a file of prompts has no template
