"""Private examples of the clients and public examples of the server, as tokens with masked prompts.

Examples are rows of a ``datasets.Dataset`` with a prompt, a completion and optionally a group and choices. Clients of a
simulation share one data set that a ``flwr-datasets`` partitioner splits; a deployed site reads its own file.
``sources`` reads rows (``files``, ``sets``) as texts and makes examples of them (``examples``), ``formats`` knows the
layouts, ``chats`` conversations; ``partition`` says who holds what, ``overlap`` what is public; ``tokens`` and, of
conversations, ``chat_template`` make tokens; ``turn_end`` finds which of them ends an answer.
"""

from common.data.chat_template import check_chat_template, render
from common.data.formats import FORMATS
from common.data.overlap import check_evaluation_is_public
from common.data.partition import (
    check_demo_data,
    evaluation_examples,
    private_examples,
    private_tokens,
    retention_examples,
    shared_examples,
    split_rows,
    validation_examples,
)
from common.data.shortened import shortened_texts
from common.data.sources import load_examples
from common.data.tokenized import IGNORED, TokenizedExamples
from common.data.tokens import completion_texts, encode, prompt_texts, tokenize
from common.data.turn_end import is_end_taught, turn_end
from common.data.unknown_words import unknown_share, unknown_words

__all__ = [
    "FORMATS",
    "IGNORED",
    "TokenizedExamples",
    "check_chat_template",
    "check_demo_data",
    "check_evaluation_is_public",
    "completion_texts",
    "encode",
    "evaluation_examples",
    "is_end_taught",
    "load_examples",
    "private_examples",
    "private_tokens",
    "prompt_texts",
    "render",
    "retention_examples",
    "shared_examples",
    "shortened_texts",
    "split_rows",
    "tokenize",
    "turn_end",
    "unknown_share",
    "unknown_words",
    "validation_examples",
]
