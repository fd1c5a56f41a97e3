"""BLEU and ROUGE in any script, and equal to the packages' own where these are made for it."""

import pytest
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer
from sacrebleu import corpus_bleu

from workbench.evaluation.generation import score_texts, scoring
from workbench.evaluation.words import Words, bleu_tokenizer

SCRIPTS = {
    "Это хороший ресторан у тихой реки": "13a",
    "यह नदी के किनारे एक अच्छा रेस्तरां है": "13a",
    "هذا مطعم جيد على ضفة النهر": "13a",
    "강가에 있는 아주 좋은 식당입니다": "13a",
    "Der Zug fährt um acht Uhr ab": "13a",
    "这是河边一家很好的餐厅": "zh",
    "我们使用TensorFlow训练模型": "zh",
    "これは川のそばの良いレストランです": "char",
    "นี่คือร้านอาหารที่ดีริมแม่น้ำ": "char",
}


@pytest.mark.parametrize(("text", "tokenizer"), SCRIPTS.items())
def test_identical_texts_score_a_hundred_in_any_script(text: str, tokenizer: str) -> None:
    assert scoring([[text]])["bleu_tokenizer"] == tokenizer
    assert score_texts([text], [["x", text]]) == pytest.approx(
        dict.fromkeys(("bleu", "rouge1", "rouge2", "rougeL"), 100)
    )
    other = score_texts(["... 1 2 3 4"], [[text]])
    assert max(other.values()) < 1, "and others nothing"


def test_words_of_scripts() -> None:
    words = Words().tokenize
    assert words("Это ХОРОШИЙ день, не_так?") == ["это", "хороший", "день", "не", "так"]
    assert words("एक अच्छा रेस्तरां है।") == ["एक", "अच्छा", "रेस्तरां", "है"], "vowel signs are parts of words"
    assert words("河边3家Cafe店") == ["河", "边", "3", "家", "cafe", "店"]
    assert words("ที่ดี") == ["ที่", "ดี"]
    assert words("cafe\u0301") == words("caf\u00e9") == ["caf\u00e9"]
    assert words("Café 😀👍!❤️ok 3°C") == ["café", "😀", "👍", "❤️", "ok", "3", "c"], "each emoji is one"
    assert words("") == []


ENGLISH = ["The dogs' running isn't 3.14 under_scored; ponies FLY.", "It costs less than £20, near the café!"]


def test_on_english_the_scores_are_the_packages_own() -> None:
    assert Words().tokenize(ENGLISH[0] * 3) == DefaultTokenizer(use_stemmer=True).tokenize(ENGLISH[0] * 3)
    texts, references = ["The dog runs and isn't under a pony that flies."], [ENGLISH[:1]]
    found = score_texts(texts, references)
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    own = scorer.score(references[0][0], texts[0])
    assert {name: found[name] for name in own} == pytest.approx({name: 100 * s.fmeasure for name, s in own.items()})
    texts = ["The dogs' running isn't cheap, near the café!", ENGLISH[1]]
    assert score_texts(texts, [[t] for t in ENGLISH])["bleu"] == pytest.approx(corpus_bleu(texts, [ENGLISH]).score)


def test_the_references_decide_and_a_foreign_name_does_not() -> None:
    assert bleu_tokenizer([["He was born in Tokyo (東京) long ago and lives there"]]) == "13a"
    assert bleu_tokenizer([["1 2 3"]]) == "13a"


def test_texts_shorter_than_four_words_can_be_right() -> None:
    assert score_texts(["green", "blue boat"], [["green"], ["blue boat"]])["bleu"] == pytest.approx(100)
