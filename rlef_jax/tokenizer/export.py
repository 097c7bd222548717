"""Writes a tokenizer's files for transformers: the same ids, and a layout's chat template."""

import codecs
import json
import os
import pathlib

from rlef_jax.tokenizer import SentencePieceTokenizer, Tokenizer, bpe, kind_of, ranks
from rlef_jax.tokenizer.layouts import LAYOUTS, ChatLayout
from rlef_jax.tokenizer.vocabulary import SPACE_MARK

# Files that belong to a tokenizer.json and are copied with it.
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


def write_hf(
    tokenizer: Tokenizer, layout_name: str, directory: str | os.PathLike, system: str = ""
) -> None:
    """Writes what `transformers.AutoTokenizer.from_pretrained(directory)` opens.

    The chat template is the layout's, with the system message `system` if any: what
    `apply_chat_template` gives is what a policy of this layout was trained on. Templates that the
    tokenizer had are kept in files of other names, which begin with `source_`.

    A tokenizer.json and the files that belong to it are copied. From a SentencePiece model or Llama
    3's ranks a tokenizer.json is made, and the original is copied beside it. It gives the same ids,
    but for texts with a literal U+2581 and for special tokens spelled out, which `transformers`
    takes for the tokens.

    Raises ValueError where the tokenizer lacks tokens of the layout, the layout takes no system
    message, and for a SentencePiece model that is no BPE, or has symbols that no merge makes.
    """
    ChatLayout.make(layout_name, tokenizer, system)  # raises for what does not go together
    layout = LAYOUTS[layout_name]
    names = {i: name for name, i in tokenizer.specials.items()}
    pad = names.get(tokenizer.pad_id)
    roles = {"bos_token": layout.bos, "eos_token": layout.eos, "pad_token": pad}
    roles = {role: token for role, token in roles.items() if token}
    made = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        **roles,
    }
    files = _files(tokenizer)
    if "tokenizer_config.json" not in files:
        files |= {"tokenizer_config.json": _json(made), "special_tokens_map.json": _json(roles)}
    config, template = json.loads(files["tokenizer_config.json"]), layout.template_with(system)
    for name in _TEMPLATES:
        if name in files:  # it would come before the one in the configuration
            files[f"source_{name}"] = files.pop(name)
    if config.get("chat_template") not in (None, template):
        files["source_tokenizer_config.json"] = files["tokenizer_config.json"]
    if config.get("chat_template") != template:
        files["tokenizer_config.json"] = _json({**config, "chat_template": template})
    os.makedirs(directory, exist_ok=True)
    for name, content in files.items():
        pathlib.Path(directory, name).write_bytes(content)


def _files(tokenizer: Tokenizer) -> dict[str, bytes]:
    """{name: content} of the tokenizer's own files, and of a tokenizer.json where it has none."""
    path, kind = pathlib.Path(tokenizer.path), kind_of(tokenizer.path)
    if kind == "json":
        beside = [path.with_name(name) for name in _COMPANIONS]
        found = [file for file in beside if file.is_file()]
        # without a mark of the byte order, which transformers does not read
        copied = {file.name: file.read_bytes().removeprefix(codecs.BOM_UTF8) for file in found}
        return {"tokenizer.json": path.read_bytes().removeprefix(codecs.BOM_UTF8), **copied}
    spec = ranks.read_spec(tokenizer.path) if kind == "ranks" else _sentencepiece_spec(tokenizer)
    return {"tokenizer.json": _json(spec), "tokenizer.model": path.read_bytes()}


def _json(content: dict) -> bytes:
    return json.dumps(content, ensure_ascii=False, indent=2).encode()


def _sentencepiece_spec(tokenizer: SentencePieceTokenizer) -> dict:
    """A SentencePiece BPE as a tokenizer.json: pieces are joined in the order of their scores."""
    path, model = tokenizer.path, tokenizer.model
    names = [model.id_to_piece(i) for i in range(model.get_piece_size())]
    joined = [
        i for i, name in enumerate(names) if not model.is_byte(i) and name not in tokenizer.specials
    ]
    if any(model.get_score(i) % 1 for i in joined):
        reason = "a unigram model, whose scores are no ranks"
        raise ValueError(f"{path} is {reason}: only BPE models can be exported")
    by_score = [names[i] for i in sorted(joined, key=model.get_score, reverse=True)]
    merges = bpe.merges({piece: rank for rank, piece in enumerate(by_score)})
    merged = {left + right for left, right in merges}
    unmade = {piece for piece in by_score if len(piece) > 1} - merged
    if unmade:
        reason = f"has pieces that no merge makes, such as {min(unmade)!r}"
        raise ValueError(f"{path} {reason}: it cannot be exported")
    mark = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE_MARK}
    unmark = {"type": "Replace", "pattern": {"String": SPACE_MARK}, "content": " "}
    prepend = {"type": "Prepend", "prepend": SPACE_MARK}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    normalizers, decoders = [mark], [unmark, {"type": "ByteFallback"}, {"type": "Fuse"}]
    if tokenizer.blank_first:
        normalizers, decoders = [prepend, *normalizers], [*decoders, strip]
    vocab = {name: i for i, name in enumerate(names)}
    return {
        "version": "1.0",
        "added_tokens": [bpe.special_token(i, name) for name, i in tokenizer.specials.items()],
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {"type": "BPE", "byte_fallback": True, "vocab": vocab, "merges": merges},
    }
