"""Language models in GGUF files, read as the transformers directories that they were converted from."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from jvlm.core import mapping
from jvlm.core.build import lookup
from jvlm.core.errors import UserError
from jvlm.data.processor import Processor, TextSpec
from jvlm.data.tokenizers import tokenizer_from_files
from jvlm.interop.gguf_file import GgufFile
from jvlm.interop.gguf_tokenizer import tokenizer_files
from jvlm.interop.hf import TABLES
from jvlm.interop.pretrained import Pretrained
from jvlm.interop.weights import Placement, read_weights

_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_GEMMA2 = _NAMES | {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}


def find(path: Path) -> Path | None:
    """The GGUF file that `path` is, or the only one in the folder `path`; None where there is none.

    UserError for a folder with several.
    """
    if path.is_file():
        return path if path.suffix == ".gguf" else None
    files = sorted(path.glob("*.gguf")) if path.is_dir() else []
    if len(files) > 1:
        raise UserError(f"{path} holds {len(files)} .gguf files; name one of them, such as {files[0].name}")
    return files[0] if files else None


def load(path: Path, *, dtype: Any | None = None, placement: Placement | None = None) -> Pretrained:
    """The model of one GGUF file with its tokenizer. `dtype` None: float32, and float16 where the file has it.

    UserError for an architecture, a tensor type or a tokenizer that jvlm does not read.
    """
    file = GgufFile(path)
    kind = str(file.need("general.architecture"))
    config = lookup(_CONFIGS, kind, f"{path}: the architecture")(file)
    model, fields, variables = read_weights(TABLES[kind], config, _Reader(file, kind, config), dtype, placement)
    tokenizer = tokenizer_from_files(tokenizer_files(file))
    processor = Processor(text=TextSpec(length=model.length, pad_id=tokenizer.pad_id), tokenizer=tokenizer)
    params = variables.pop("params")
    return Pretrained(model, params, variables, {"family": TABLES[kind].family, **fields}, processor, config)


def _common(file: GgufFile) -> dict[str, Any]:
    kind = file.need("general.architecture")

    def need(key: str) -> Any:
        return file.need(f"{kind}.{key}")

    width, heads = need("embedding_length"), need("attention.head_count")
    head_dim = file.get(f"{kind}.attention.key_length") or file.get(f"{kind}.rope.dimension_count")
    config = dict(
        model_type=kind,
        vocab_size=file.shape("token_embd.weight")[0],
        hidden_size=width,
        num_hidden_layers=need("block_count"),
        num_attention_heads=heads,
        num_key_value_heads=file.get(f"{kind}.attention.head_count_kv", heads),
        head_dim=head_dim or width // heads,
        intermediate_size=need("feed_forward_length"),
        max_position_embeddings=need("context_length"),
        rms_norm_eps=need("attention.layer_norm_rms_epsilon"),
        rope_parameters=_rope(file, kind),
        tie_word_embeddings="output.weight" not in set(file.names()),
    )
    for name in ("bos", "eos", "padding"):
        if (token := file.get(f"tokenizer.ggml.{name}_token_id")) is not None:
            config[f"{name.removesuffix('ding')}_token_id"] = token
    return config


def _rope(file: GgufFile, kind: str) -> dict[str, Any]:
    rope: dict[str, Any] = dict(rope_theta=float(file.get(f"{kind}.rope.freq_base", 10_000.0)), rope_type="default")
    scaling = file.get(f"{kind}.rope.scaling.type", "none")
    if scaling not in ("none", "linear", "yarn"):
        raise UserError(f"{file.path}: positions are scaled by {scaling!r}; jvlm reads linear and yarn from a GGUF")
    if scaling != "none":
        rope |= dict(rope_type=scaling, factor=float(file.need(f"{kind}.rope.scaling.factor")))
    if scaling == "yarn":
        rope["original_max_position_embeddings"] = file.need(f"{kind}.rope.scaling.original_context_length")
    return rope


def _llama(file: GgufFile) -> dict[str, Any]:
    bias = "blk.0.attn_q.bias" in set(file.names())
    return dict(_common(file), architectures=["LlamaForCausalLM"], hidden_act="silu", attention_bias=bias)


def _qwen2(file: GgufFile) -> dict[str, Any]:
    return dict(_common(file), architectures=["Qwen2ForCausalLM"], hidden_act="silu")


def _gemma2(file: GgufFile) -> dict[str, Any]:
    config = _common(file)
    # The files do not say it: of the three sizes the largest divides by its width per head.
    largest = config["num_hidden_layers"] == 46
    scale = config["hidden_size"] // config["num_attention_heads"] if largest else config["head_dim"]
    return dict(
        config,
        architectures=["Gemma2ForCausalLM"],
        hidden_activation="gelu_pytorch_tanh",
        query_pre_attn_scalar=scale,
        sliding_window=file.get("gemma2.attention.sliding_window", 4096),
        attn_logit_softcapping=file.get("gemma2.attn_logit_softcapping", 50.0),
        final_logit_softcapping=file.get("gemma2.final_logit_softcapping", 30.0),
    )


_CONFIGS: dict[str, Callable[[GgufFile], dict[str, Any]]] = {
    "llama": _llama,
    "qwen2": _qwen2,
    "gemma2": _gemma2,
}


class _Reader(mapping.Reader):
    """The tensors under transformers' names, in transformers' layout."""

    def __init__(self, file: GgufFile, kind: str, config: dict[str, Any]) -> None:
        self.file, self.kind, self.config = file, kind, config
        self._where = {self._published(name): name for name in file.names()}

    def _published(self, name: str) -> str:
        parts = re.fullmatch(r"(?:blk\.(\d+)\.)?(.*?)(\.weight|\.bias)?", name)
        assert parts is not None  # it matches any name
        layer, stem, suffix = parts.groups()
        theirs = (_GEMMA2 if self.kind == "gemma2" else _NAMES).get(stem)
        if theirs is None:
            return name  # which the table then refuses
        return (f"model.layers.{layer}." if layer else "") + theirs + (suffix or "")

    def names(self) -> Iterable[str]:
        return self._where.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        return self.file.shape(self._where[name])

    def read(self, name: str, index: mapping.Index | None = None) -> np.ndarray:
        array = self.file.read(self._where[name])
        if self.kind == "llama" and ("q_proj" in name or "k_proj" in name):
            heads = self.config["num_attention_heads" if "q_proj" in name else "num_key_value_heads"]
            # llama.cpp turns neighbouring channels, transformers the two halves of a head.
            array = array.reshape(heads, -1, 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)
        if self.kind.startswith("gemma") and name.endswith("norm.weight"):
            array = array - np.float32(1)  # stored as what multiplies; the model adds the one itself
        return array if index is None else array[index]
