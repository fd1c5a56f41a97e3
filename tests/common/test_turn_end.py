"""Which token ends an answer in a chat template, and whether training teaches one."""

import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from common.config import DataConfig
from common.data import is_end_taught, turn_end
from common.data.chat_template import answer_tokens
from tests.support.benchmark_files import save_model

TALK = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "At home, I think."}]
SPECIAL = ("<|user|>", "<|assistant|>", "<|end|>", "<|im_start|>", "<|im_end|>", "<|eot_id|>", "<start_of_turn>",
           "<end_of_turn>", "<|start_header_id|>", "<|end_header_id|>", "<think>", "</think>")  # fmt: skip


def template(turn: str, ask: str = "", start: str = "") -> str:
    """One line of Jinja that writes every message as ``turn`` does, and ``ask`` where an answer is asked for."""
    asked = f"{{% if add_generation_prompt %}}{ask}{{% endif %}}" if ask else ""
    return f"{start}{{% for m in messages %}}{turn}{{% endfor %}}{asked}"


ROLES = "<|{{ m.role }}|>"
CHATML = template("<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n", "<|im_start|>assistant\n")
LLAMA3 = template(
    "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>",
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "{{ bos_token }}",
)
GEMMA = template(
    "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>\n",
    "<start_of_turn>model\n",
    "{{ bos_token }}",
)
PHI3 = template(ROLES + "\n{{ m.content }}<|end|>\n") + (
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
MISTRAL = template(
    "{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content }}{{ eos_token }}{% endif %}"
)
THOUGHTFUL = template(
    ROLES + "{% if m.role == 'assistant' %}<think></think>{% endif %}{{ m.content }}<|end|>", "<|assistant|>"
)
MARKED = template(
    ROLES + "{% if m.role == 'user' %}{{ m.content }}<|end|>"
    "{% else %}{% generation %}{{ m.content }}<|end|>{% endgeneration %}{% endif %}",
    "<|assistant|>",
)
DEMANDING = "{% if messages[0].role != 'system' %}{{ raise_exception('instructions first') }}{% endif %}"
FINDS = {
    "ChatML": (CHATML, "<|im_end|>"),
    "Llama 3": (LLAMA3, "<|eot_id|>"),
    "Gemma": (GEMMA, "<end_of_turn>"),
    "Phi 3, with an end of text behind it": (PHI3, "<|end|>"),
    "Mistral": (MISTRAL, "</s>"),
    "no prompt for an answer": (template(ROLES + "{{ m.content }}<|end|>"), "<|end|>"),
    "a line's end before it": (template(ROLES + "{{ m.content }}\n\n<|end|>", "<|assistant|>"), "<|end|>"),
    "a blank before it": (template(ROLES + "{{ m.content }} <|end|>\n", "<|assistant|>"), "<|end|>"),
    "thoughts before the answer": (THOUGHTFUL, "<|end|>"),
    "the text in capitals": (template(ROLES + "\n{{ m.content | trim | upper }}<|end|>", "<|assistant|>\n"), "<|end|>"),
    "the text in quotes": (template(ROLES + '"{{ m.content }}"<|end|>', "<|assistant|>"), "<|end|>"),
    "added, but not special": (template(ROLES + "{{ m.content }}<turn/>", "<|assistant|>"), "<turn/>"),
    "generation marks": (MARKED, "<|end|>"),
}
UNTOLD = {  # training on conversations refuses these or does not teach their end, which a chat model knows
    "asked with thoughts that an answer has not": (
        template(ROLES + "{{ m.content }}<|end|>", "<|assistant|><think>"),
        "<|end|>",
    ),
    "marks that leave the end out": (MARKED.replace("<|end|>{% endgen", "{% endgen") + "<|end|>", "<|end|>"),
}
BARE = template("{{ m.role }}: {{ m.content }}\n", "assistant:")
WORDS = template(ROLES + "{{ m.content }}\n### End\n", "<|assistant|>")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    tokenizer = AutoTokenizer.from_pretrained(save_model(tmp_path_factory.mktemp("chat")))
    tokenizer.add_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL])
    tokenizer.add_tokens([AddedToken(name, special=False, normalized=False) for name in ("<turn/>", "\n\n")])
    return tokenizer


def found(tokenizer: PreTrainedTokenizerBase, written: str) -> str | None:
    tokenizer.chat_template = written
    end = turn_end(tokenizer)
    return None if end is None else str(tokenizer.convert_ids_to_tokens(end))


@pytest.mark.parametrize(("written", "end"), FINDS.values(), ids=FINDS.keys())
def test_the_end_of_a_turn_is_what_training_teaches_behind_the_text(
    plain: PreTrainedTokenizerBase, written: str, end: str
) -> None:
    assert found(plain, written) == end
    ids, spans = answer_tokens(plain, TALK, end=True)
    learned = plain.convert_ids_to_tokens(ids[slice(*spans[-1])])
    behind = [token for token in learned if token in {*SPECIAL, "</s>", "<turn/>"}]
    assert end in behind
    assert is_end_taught(plain, DataConfig(format="chat", append_eos=False))


@pytest.mark.parametrize(("written", "end"), UNTOLD.values(), ids=UNTOLD.keys())
def test_an_end_that_conversations_do_not_teach_is_found(
    plain: PreTrainedTokenizerBase, written: str, end: str
) -> None:
    assert found(plain, written) == end


@pytest.mark.parametrize(
    "written",
    [BARE, WORDS, template(ROLES + "{{ m.content }}", "<|assistant|>"), "{{ raise_exception('no') }}", "{{ 'a' }}"],
    ids=["a line each", "words", "only beginnings", "it refuses", "it writes no answer"],
)
def test_a_template_that_ends_no_turn_by_a_token_of_its_own_has_no_end(
    plain: PreTrainedTokenizerBase, written: str
) -> None:
    assert found(plain, written) is None


@pytest.mark.parametrize(
    ("written", "layout", "append_eos", "taught"),
    [
        (BARE, "chat", True, True),
        (BARE, "chat", False, False),
        (BARE, "columns", True, True),
        (BARE, "columns", False, False),
        (WORDS, "chat", True, False),
        (WORDS, "columns", True, True),
        (CHATML, "columns", False, True),
        ("{{ raise_exception('no') }}", "chat", True, False),
    ],
)
def test_without_one_the_end_of_text_is_taught_where_training_appends_it(
    plain: PreTrainedTokenizerBase, written: str, layout: str, append_eos: bool, taught: bool
) -> None:
    plain.chat_template = written
    data = DataConfig(format=layout, append_eos=append_eos, chat_template=layout == "columns")
    assert is_end_taught(plain, data) == taught


def test_a_template_that_demands_instructions_is_asked_with_some(plain: PreTrainedTokenizerBase) -> None:
    assert found(plain, DEMANDING + CHATML) == "<|im_end|>"
    plain.chat_template = DEMANDING + BARE
    assert is_end_taught(plain, DataConfig(format="chat"))


def test_a_tokenizer_that_knows_no_word_of_the_answers_finds_it_all_the_same() -> None:
    names = {"unk_token": "<unk>", "bos_token": "<s>"}
    core = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names.values())}, names["unk_token"]))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, **names)
    tokenizer.add_tokens([AddedToken("<|end|>", special=True)])
    assert found(tokenizer, template("{{ m.role }} : {{ m.content }} <|end|>", start="{{ bos_token }}")) == "<|end|>"
