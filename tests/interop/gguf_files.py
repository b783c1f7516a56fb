"""Tiny GGUF files: random weights of every type, a byte-level and a SentencePiece vocabulary."""

from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, TokenType
from gguf.quants import quantize

WIDTH, HEADS, KEY_HEADS, HIDDEN, DEPTH = 256, 4, 2, 256, 2
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"


def byte_level() -> dict[str, Any]:
    """A vocabulary of bytes, a few merges and three control tokens."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    control = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    merges = ["Ġ t", "h e", "Ġt he", "i n", "Ġ Ġ", "1 2", "e r"]
    pieces = [*control, *bytes_to_unicode().values(), *(merge.replace(" ", "") for merge in merges)]
    kinds = [TokenType.CONTROL] * 3 + [TokenType.NORMAL] * (len(pieces) - 3)
    return dict(model="gpt2", pieces=pieces, kinds=kinds, merges=merges, bos=1, eos=2, pre="smollm")


def sentencepiece() -> dict[str, Any]:
    """Bytes and pieces with scores, as SentencePiece trains pairs."""
    control = ["<unk>", "<s>", "</s>"]
    letters = ["▁", *"abcdefghijklmnopqrstuvwxyz"]
    words = ["▁t", "he", "▁the", "in", "▁in", "er", "th", "▁▁"]
    pieces = [*control, *(f"<0x{byte:02X}>" for byte in range(256)), *words, *letters]
    kinds = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL]
    kinds += [TokenType.BYTE] * 256 + [TokenType.NORMAL] * (len(words) + len(letters))
    scores = [0.0] * 259 + [-float(at) for at in range(len(words) + len(letters))]
    return dict(model="llama", pieces=pieces, kinds=kinds, scores=scores, bos=1, eos=2, unk=0)


def write(
    path: Path, arch: str = "llama", kind: str = "Q8_0", vocabulary: Any = None, tied: bool = False, **fields: Any
) -> Path:
    """A file with random weights whose matrices are of one type; `fields` are added or replace what is written."""
    vocabulary = vocabulary or byte_level()
    writer = GGUFWriter(path, arch)
    for key, value in {
        "context_length": 64, "block_count": DEPTH, "embedding_length": WIDTH, "feed_forward_length": HIDDEN,
        "attention.head_count": HEADS, "attention.head_count_kv": KEY_HEADS, "vocab_size": len(vocabulary["pieces"]),
    }.items():  # fmt: skip
        writer.add_uint32(f"{arch}.{key}", fields.pop(key, value))
    writer.add_float32(f"{arch}.attention.layer_norm_rms_epsilon", 1e-5)
    for key, value in fields.items():
        if isinstance(value, str):
            writer.add_string(f"{arch}.{key}", value)
        else:
            writer.add_float32(f"{arch}.{key}", value)
    if arch == "gemma2":
        writer.add_uint32(f"{arch}.attention.key_length", 256)
    else:
        writer.add_float32(f"{arch}.rope.freq_base", 500.0)
    _write_vocabulary(writer, vocabulary)
    _write_tensors(writer, arch, kind, len(vocabulary["pieces"]), tied)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_vocabulary(writer: GGUFWriter, vocabulary: dict[str, Any]) -> None:
    writer.add_tokenizer_model(vocabulary["model"])
    writer.add_token_list(vocabulary["pieces"])
    writer.add_token_types(vocabulary["kinds"])
    if "merges" in vocabulary:
        writer.add_token_merges(vocabulary["merges"])
        writer.add_tokenizer_pre(vocabulary["pre"])
    if "scores" in vocabulary:
        writer.add_token_scores(vocabulary["scores"])
        writer.add_unk_token_id(vocabulary["unk"])
    writer.add_bos_token_id(vocabulary["bos"])
    writer.add_eos_token_id(vocabulary["eos"])
    writer.add_chat_template(TEMPLATE)


def _write_tensors(writer: GGUFWriter, arch: str, kind: str, vocab: int, tied: bool) -> None:
    rng = np.random.default_rng(0)
    head_dim = 256 if arch == "gemma2" else WIDTH // HEADS
    queries, keys = HEADS * head_dim, KEY_HEADS * head_dim
    matrices = dict(attn_q=(queries, WIDTH), attn_k=(keys, WIDTH), attn_v=(keys, WIDTH), attn_output=(WIDTH, queries))
    matrices |= dict(ffn_gate=(HIDDEN, WIDTH), ffn_up=(HIDDEN, WIDTH), ffn_down=(WIDTH, HIDDEN))
    norms = ["attn_norm", "ffn_norm"] + (["post_attention_norm", "post_ffw_norm"] if arch == "gemma2" else [])

    def matrix(name: str, shape: tuple[int, int]) -> None:
        qtype = GGMLQuantizationType[kind]
        writer.add_tensor(f"{name}.weight", encoded(rng, shape, kind), raw_dtype=qtype)

    def vector(name: str, size: int) -> None:
        writer.add_tensor(name, rng.normal(1.0, 0.1, size).astype(np.float32))

    matrix("token_embd", (vocab, WIDTH))
    for layer in range(DEPTH):
        for name in norms:
            vector(f"blk.{layer}.{name}.weight", WIDTH)
        for name, shape in matrices.items():
            matrix(f"blk.{layer}.{name}", shape)
            if arch == "qwen2" and name in ("attn_q", "attn_k", "attn_v"):
                vector(f"blk.{layer}.{name}.bias", shape[0])
    vector("output_norm.weight", WIDTH)
    if not tied:
        matrix("output", (vocab, WIDTH))


def encoded(rng: np.random.Generator, shape: tuple[int, int], kind: str) -> np.ndarray:
    """Random weights of about unit variance over the width, in the blocks of `kind`."""
    qtype = GGMLQuantizationType[kind]
    if kind not in ("Q4_K", "Q6_K"):
        return quantize(rng.normal(0, WIDTH**-0.5, shape).astype(np.float32), qtype)
    # gguf writes no K types: random codes under small scales.
    size = {"Q4_K": 144, "Q6_K": 210}[kind]
    blocks = rng.integers(0, 256, (shape[0] * shape[1] // 256, size), dtype=np.uint8)
    scale = rng.uniform(1e-4, 3e-4, (len(blocks), 1)).astype(np.float16)
    if kind == "Q4_K":
        blocks[:, :4] = np.concatenate([scale, 7.5 * scale], axis=1).view(np.uint8)
    else:
        blocks[:, -2:] = (scale / 10).view(np.uint8)
    return blocks.reshape(shape[0], -1)
