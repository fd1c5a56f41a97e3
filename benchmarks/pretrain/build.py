"""Pretrain the embedded model and write its assets: ``python -m benchmarks.pretrain.build``; minutes on a core."""

import argparse
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks.pretrain.corpus import documents
from common.demo.facts import vocabulary
from common.demo.model import ASSETS, WEIGHTS
from common.demo.weights import save_weights

BOS, EOS, PAD, UNK = "<s>", "</s>", "<pad>", "<unk>"


@dataclass(frozen=True)
class Training:
    """Settings of the pretraining, stored beside the weights."""

    seed: int = 0
    steps: int = 1200
    batch_size: int = 64
    sequence_length: int = 32
    learning_rate: float = 4e-3
    warmup_share: float = 0.05
    weight_decay: float = 0.01


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Make the word-level tokenizer: one token per word of the corpus, ``<s>`` in front."""
    tokens = (PAD, BOS, EOS, UNK, *vocabulary())
    core = Tokenizer(models.WordLevel({token: index for index, token in enumerate(tokens)}, unk_token=UNK))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, tokens.index(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=BOS, eos_token=EOS, pad_token=PAD, unk_token=UNK, model_max_length=64
    )


def build_config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """Shape of the model: Llama's layout at about 430,000 parameters."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=192,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def pack(tokenizer: PreTrainedTokenizerFast, training: Training) -> Iterator[Tensor]:
    """Endless batches ``[batch_size, sequence_length]``, documents laid end to end, each ``<s> ... </s>``."""
    stream = documents(training.seed)
    rows: list[list[int]] = []
    while True:
        row: list[int] = []
        while len(row) < training.sequence_length:
            row += [*tokenizer.encode(next(stream)), tokenizer.eos_token_id]
        rows.append(row[: training.sequence_length])
        if len(rows) == training.batch_size:
            yield torch.tensor(rows)
            rows = []


def pretrain(model: LlamaForCausalLM, batches: Iterator[Tensor], training: Training) -> None:
    """Train with AdamW: linear warm-up, then a cosine decay to zero."""
    optimizer = torch.optim.AdamW(
        model.parameters(), training.learning_rate, betas=(0.9, 0.95), weight_decay=training.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        training.learning_rate,
        training.steps,
        pct_start=training.warmup_share,
        cycle_momentum=False,
    )
    model.train()
    for step, batch in enumerate(islice(batches, training.steps), start=1):
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step}: loss {loss.item():.4f}", flush=True)


def build(folder: Path, training: Training) -> None:
    """Build tokenizer and model, and write them to ``folder`` as JSON."""
    torch.manual_seed(training.seed)
    torch.set_num_threads(1)
    tokenizer = build_tokenizer()
    model = LlamaForCausalLM(build_config(tokenizer))
    pretrain(model, pack(tokenizer, training), training)
    tensors = {name: value for name, value in model.state_dict().items() if name != "lm_head.weight"}
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    model.config.save_pretrained(folder)
    save_weights(folder / WEIGHTS, tensors, asdict(training) | {"torch": torch.__version__})


def main() -> None:
    """Read the command line and build."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=ASSETS)
    parser.add_argument("--seed", type=int, default=Training.seed)
    parser.add_argument("--steps", type=int, default=Training.steps)
    options = parser.parse_args()
    build(options.output, Training(seed=options.seed, steps=options.steps))


if __name__ == "__main__":
    main()
