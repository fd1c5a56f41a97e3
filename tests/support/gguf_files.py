"""A tiny Llama as a GGUF file, as llama.cpp's converter writes it: its names, its order of q and k, its tokenizer."""

import json
from pathlib import Path

import gguf
import numpy as np
import torch
from transformers import AutoModelForCausalLM

from tests.support.layouts import DEPTH, WIDTH, config_of, write_model

TEMPLATE = "{% for message in messages %}user: {{ message['content'] }}\nanswer:{% endfor %}"
_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(path: Path, scratch: Path, kind: str = "Q8_0") -> Path:
    """Write the layout "llama" to ``path``, its matrices quantized as ``kind``; ``scratch`` gets it as a folder."""
    write_model("llama", scratch)
    config = config_of("llama")
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(DEPTH)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer, scratch)
    for name, weight in AutoModelForCausalLM.from_pretrained(scratch).state_dict().items():
        values = _permuted(name, weight, config.num_attention_heads).numpy()
        raw = gguf.GGMLQuantizationType[kind if values.ndim == 2 else "F32"]
        writer.add_tensor(_renamed(name), gguf.quants.quantize(values, raw), raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: gguf.GGUFWriter, folder: Path) -> None:
    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    end = model["vocab"]["<|endoftext|>"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    kinds = gguf.TokenType
    writer.add_token_types([kinds.CONTROL if number == end else kinds.NORMAL for number in range(len(tokens))])
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(end)
    writer.add_eos_token_id(end)
    writer.add_chat_template(TEMPLATE)


def _renamed(name: str) -> str:
    stem = name.removesuffix(".weight")
    if stem.startswith("model.layers."):
        _, _, number, part = stem.split(".", 3)
        return f"blk.{number}.{_NAMES[part]}.weight"
    return f"{_NAMES[stem]}.weight"


def _permuted(name: str, weight: torch.Tensor, heads: int) -> torch.Tensor:
    """q and k in llama.cpp's order of rotary pairs."""
    if not name.endswith(("q_proj.weight", "k_proj.weight")):
        return weight
    rows, width = weight.shape
    return weight.view(heads, 2, rows // heads // 2, width).transpose(1, 2).reshape(rows, width).contiguous()


def rounded(weight: torch.Tensor, kind: str) -> torch.Tensor:
    """A matrix as it comes back from the file."""
    raw = gguf.GGMLQuantizationType[kind]
    return torch.from_numpy(np.array(gguf.quants.dequantize(gguf.quants.quantize(weight.numpy(), raw), raw)))
