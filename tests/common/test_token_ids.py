"""Texts as token ids under tokenizers that begin and end texts by themselves."""

import pytest
from tokenizers import ByteLevelBPETokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from common.config import ConfigError
from common.data import IGNORED, tokenize
from common.model.token_ids import begin_ids, leave_ends_open, prompt_ids, split_at_word, token_ids

TEXT = "Question: what is the colour of the house? Answer: green blue"


def tokenizer(template: str) -> PreTrainedTokenizerFast:
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator([TEXT] * 20, 400, special_tokens=["<s>", "</s>"], show_progress=False)
    trained._tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=[("<s>", 0), ("</s>", 1)])
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=trained._tokenizer, **names)


PLAIN, BOTH, NONE = "<s> $A", "<s> $A </s>", "$A"


@pytest.mark.parametrize("template", [PLAIN, BOTH, NONE, "$A </s>"])
def test_an_end_token_is_never_added_and_a_begin_token_once(template: str) -> None:
    found = tokenizer(template)
    begin = [0] if "<s>" in template else []
    bare = found(TEXT, add_special_tokens=False)["input_ids"]
    assert begin_ids(found) == begin
    assert token_ids(found, [TEXT, f"<s>{TEXT}"]) == [begin + bare, [0, *bare]]
    assert token_ids(found, [TEXT], special=False) == [bare]
    assert token_ids(found, []) == []


@pytest.mark.parametrize(("template", "start"), [(PLAIN, [0]), (NONE, [0])])
def test_an_empty_prompt_has_a_token_before_what_is_scored(template: str, start: list[int]) -> None:
    """As with the harness's ``prefix_token_id``: else the first token of every choice would count for nothing."""
    found = tokenizer(template)
    bare = found(" green blue", add_special_tokens=False)["input_ids"]
    assert prompt_ids(found, ["", TEXT])[0] == start
    for prompt, completion in (("", " green blue"), (" ", "green blue")):
        tokens = tokenize(found, [prompt], [completion], 64)
        assert tokens.input_ids.tolist() == [start + bare]
        assert tokens.labels.tolist() == [[IGNORED] * len(start) + bare]


def test_without_a_begin_token_the_end_token_stands_for_an_empty_prompt_and_without_both_nothing_can() -> None:
    found = tokenizer(NONE)
    found.bos_token = None
    assert prompt_ids(found, [""]) == [[1]]
    found.eos_token = None
    assert token_ids(found, [""]) == [[]]
    with pytest.raises(ConfigError, match="prompt 2 is empty"):
        prompt_ids(found, [TEXT, ""])
    with pytest.raises(ConfigError, match="example 1 has nothing to learn"):
        tokenize(found, [""], ["g"], 64)


@pytest.mark.parametrize("end", [False, True])
def test_examples_are_the_same_under_a_tokenizer_that_ends_texts(end: bool) -> None:
    prompts, answers = ["Question: what is the colour? Answer:"] * 2, [" green", " the blue house"]
    one, other = (tokenize(tokenizer(t), prompts, answers, 64, end=end) for t in (PLAIN, BOTH))
    assert one.input_ids.tolist() == other.input_ids.tolist()
    assert one.labels.tolist() == other.labels.tolist()
    assert (one.labels == 1).any() == end, "data.append-eos decides, not the tokenizer"


@pytest.mark.parametrize("template", [BOTH, "$A </s>"])
def test_a_tokenizer_can_be_kept_from_ending_texts(template: str) -> None:
    """What the evaluation harness does with it, which calls it as it is."""
    found = tokenizer(template)
    expected = tokenizer(template.removesuffix(" </s>"))
    leave_ends_open(found)
    assert found(TEXT)["input_ids"] == expected(TEXT)["input_ids"]
    assert found("a", "b")["input_ids"][-1] != 1


def test_white_space_at_a_prompts_end_belongs_to_the_completion() -> None:
    assert split_at_word("Answer: \n", "green") == ("Answer:", " \ngreen")
    found = tokenizer(PLAIN)
    inside = tokenize(found, ["Answer:"], [" green"], 64)
    before = tokenize(found, ["Answer: "], ["green"], 64)
    assert before.input_ids.tolist() == inside.input_ids.tolist()
    assert before.labels.tolist() == inside.labels.tolist()


def test_what_a_chat_template_wrote_is_left_as_it_is() -> None:
    text = "<s>Answer:\n"
    found = tokenize(tokenizer(PLAIN), [text], ["green"], 64, special=False)
    head = tokenizer(PLAIN)(text, add_special_tokens=False)["input_ids"]
    assert found.input_ids[0, : len(head)].tolist() == head, "one begin token, and the line's end"
    assert found.labels[0, : len(head)].tolist() == [IGNORED] * len(head)
    assert (found.labels[0, len(head) :] != IGNORED).all()


def test_options_of_a_question_begin_at_one_token() -> None:
    """Where one option's first token spans the border, the others are scored from there too."""
    found = tokenizer(PLAIN)
    options = ["r", " blue"]  # "colou" + "r" is another token than "colou" alone
    apart = tokenize(found, ["the colou"] * 2, options, 64)
    together = tokenize(found, ["the colou"] * 2, options, 64, questions=[0, 0])
    starts = [[int((row != IGNORED).int().argmax()) for row in tokens.labels] for tokens in (apart, together)]
    assert starts[0][0] < starts[0][1], "or the test says nothing"
    assert starts[1] == [starts[0][0]] * 2
    assert tokenize(found, ["the colou"] * 2, options, 64, questions=[0, 1]).labels.tolist() == apart.labels.tolist()
