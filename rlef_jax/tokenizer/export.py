"""Writes a tokenizer as `transformers` reads it: the same ids, and a chat template that renders a
layout of `prompts`.
"""

import json
import os
import pathlib

from rlef_jax.tokenizer import SentencePieceTokenizer, Tokenizer, bpe, kind_of, ranks
from rlef_jax.tokenizer.vocabulary import SPACE_MARK

# What may stand beside a tokenizer.json.
_TEMPLATES = ("chat_template.jinja", "chat_template.json")
_COMPANIONS = (
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    *_TEMPLATES,
)

_NO_SYSTEM = "{%- if message['role'] == 'system' -%}{{- raise_exception('this layout takes no system message') -}}{%- endif -%}"

# Per layout: the tokens that begin a text and end a turn, and the template. Messages are trimmed as
# `Environment` strips them.
_LAYOUTS = {
    "mini": (
        "<s>",
        "<|end|>",
        (
            "{{- '<s>' -}}{%- for message in messages -%}"
            + _NO_SYSTEM
            + "{%- if message['role'] == 'assistant' -%}{{- '<|assistant|>' + message['content'] + '<|end|>' -}}"
            "{%- else -%}{{- '<|user|>' + message['content'] | trim -}}{%- endif -%}"
            "{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
        ),
    ),
    "llama2": (
        "<s>",
        "</s>",
        (
            "{%- for message in messages -%}"
            + _NO_SYSTEM
            + "{%- if message['role'] == 'assistant' -%}{{- ' ' + message['content'] | trim + ' </s>' -}}"
            "{%- else -%}{{- '<s>[INST] ' + message['content'] | trim + ' [/INST]' -}}{%- endif -%}"
            "{%- endfor -%}"
        ),
    ),
    "llama3": (
        "<|begin_of_text|>",
        "<|eot_id|>",
        (
            "{{- '<|begin_of_text|>' -}}{%- for message in messages -%}"
            "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' -}}"
            "{%- endfor -%}"
            "{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}}{%- endif -%}"
        ),
    ),
    "chatml": (
        None,
        "<|im_end|>",
        (
            "{%- for message in messages -%}"
            "{%- set content = message['content'] if message['role'] == 'assistant' else message['content'] | trim -%}"
            "{{- '<|im_start|>' + message['role'] + '\n' + content + '<|im_end|>\n' -}}"
            "{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
        ),
    ),
}


def write_hf(tokenizer: Tokenizer, layout_name: str, directory: str | os.PathLike) -> None:
    """Writes the tokenizer's files into a directory that
    `transformers.AutoTokenizer.from_pretrained` opens.

    A tokenizer.json and what stands beside it are copied as they are, and the layout's template is
    added only where they have none. From a SentencePiece model or Llama 3's ranks a tokenizer.json
    is made, and the original is copied beside it; it gives the ids that we give, but for texts with
    a literal U+2581 and for special tokens spelled out, which `transformers` takes for the tokens.

    Raises:
      KeyError: when the tokenizer lacks the layout's tokens.
      ValueError: for a SentencePiece model that is no BPE, or has symbols that stand for themselves
          alone.
    """
    begin, end, template = _LAYOUTS[layout_name]
    tokenizer.id(end)
    names = {i: name for name, i in tokenizer.specials.items()}
    roles = {"bos_token": begin, "eos_token": end, "pad_token": names.get(tokenizer.pad_id)}
    roles = {role: token for role, token in roles.items() if token}
    made = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        **roles,
    }
    files = _files(tokenizer)
    if "tokenizer_config.json" not in files:
        files |= {"tokenizer_config.json": _json(made), "special_tokens_map.json": _json(roles)}
    config = json.loads(files["tokenizer_config.json"])
    if "chat_template" not in config and files.keys().isdisjoint(_TEMPLATES):
        files["tokenizer_config.json"] = _json({**config, "chat_template": template})
    os.makedirs(directory, exist_ok=True)
    for name, content in files.items():
        pathlib.Path(directory, name).write_bytes(content)


def _files(tokenizer: Tokenizer) -> dict[str, bytes]:
    """The tokenizer's own files, and a tokenizer.json where they have none."""
    path = pathlib.Path(tokenizer.path)
    kind = kind_of(tokenizer.path)
    if kind == "json":
        beside = [path.with_name(name) for name in _COMPANIONS if path.with_name(name).is_file()]
        return {
            "tokenizer.json": path.read_bytes(),
            **{file.name: file.read_bytes() for file in beside},
        }
    spec = ranks.read_spec(tokenizer.path) if kind == "ranks" else _sentencepiece_spec(tokenizer)
    return {"tokenizer.json": _json(spec), "tokenizer.model": path.read_bytes()}


def _json(content: dict) -> bytes:
    return json.dumps(content, ensure_ascii=False, indent=2).encode()


def _sentencepiece_spec(tokenizer: SentencePieceTokenizer) -> dict:
    """A SentencePiece BPE in the form of a tokenizer.json: pieces are joined in the order of their
    scores.
    """
    model = tokenizer.model
    ids = range(model.get_piece_size())
    vocab = {model.id_to_piece(i): i for i in ids}
    joined = [
        i for i in ids if not model.is_byte(i) and model.id_to_piece(i) not in tokenizer.specials
    ]
    if any(model.get_score(i) % 1 for i in joined):
        raise ValueError(
            f"{tokenizer.path} is a unigram model, whose scores are no ranks: only BPE models can be exported"
        )
    by_score = [model.id_to_piece(i) for i in sorted(joined, key=model.get_score, reverse=True)]
    merges = bpe.merges({piece: rank for rank, piece in enumerate(by_score)})
    unmade = {piece for piece in by_score if len(piece) > 1} - {
        left + right for left, right in merges
    }
    if unmade:
        raise ValueError(
            f"{tokenizer.path} has pieces that no merge makes, such as {min(unmade)!r}: it cannot be exported"
        )
    blank = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE_MARK}
    back = {"type": "Replace", "pattern": {"String": SPACE_MARK}, "content": " "}
    before, after = [], []
    if tokenizer.blank_first:
        before, after = (
            [{"type": "Prepend", "prepend": SPACE_MARK}],
            [{"type": "Strip", "content": " ", "start": 1, "stop": 0}],
        )
    return {
        "version": "1.0",
        "added_tokens": [bpe.special_token(i, name) for name, i in tokenizer.specials.items()],
        "normalizer": {"type": "Sequence", "normalizers": [*before, blank]},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, *after],
        },
        "model": {
            "type": "BPE",
            "byte_fallback": True,
            "vocab": vocab,
            "merges": merges,
        },
    }
