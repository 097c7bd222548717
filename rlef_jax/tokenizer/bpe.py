"""Tokenizers of Hugging Face's `tokenizer.json`: byte-level BPE (Llama 3, Qwen2, SmolLM2) and
SentencePiece's kind (Phi-3).
"""

import json
import re
from collections.abc import Iterator

import tokenizers

from rlef_jax.tokenizer.vocabulary import SPACE_MARK, Vocabulary, named_tokens, read_json


class BpeTokenizer(Vocabulary):
    """A BPE that `tokenizers` runs, without the special tokens: what is not there cannot be
    produced from text.

    `decode(encode(text)) == text` but for tokenizers that lose text by themselves: Qwen2 normalises
    (NFC), and SmolLM2 leaves out bytes that its vocabulary lacks, those of very rare characters.
    Where a blank goes before the text, it goes before every text, as in SentencePiece itself; some
    tokenizer.json add none when the text begins with one.
    """

    def __init__(self, path: str, spec: dict):
        """Takes the content of a `tokenizer.json`, from `read_spec`; `path` is the file it was read
        from.

        Raises:
          ValueError: when it neither spells texts in bytes nor falls back to them, or `tokenizers`
              refuses it.
        """
        model = spec["model"]
        parts = [*_parts(spec.get("normalizer")), *_parts(spec.get("pre_tokenizer"))]
        marked = model.get("byte_fallback") and all(
            f"<0x{byte:02X}>" in model["vocab"] for byte in range(256)
        )
        if not (marked or any(part.get("type") == "ByteLevel" for part in parts)):
            raise ValueError(
                f"{path} is no byte-level BPE, nor one with byte fallback: some texts would have no ids"
            )
        to_bytes = marked_piece if marked else byte_level_piece
        pieces = {i: to_bytes(piece) for piece, i in model["vocab"].items()}
        added = {token["content"]: token["id"] for token in spec.get("added_tokens") or []}
        pieces |= {i: content.encode() for content, i in added.items()}
        specials = _specials(spec, added, named_tokens(path))
        blanks = [_drop_blank(part) for part in parts]
        backend = _without(spec, specials)
        try:
            self._model = tokenizers.Tokenizer.from_str(json.dumps(backend))
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(
                f"{path} is not a tokenizer.json that `tokenizers` reads: {error}"
            ) from error
        mark = [model["vocab"][f"<0x{byte:02X}>"] for byte in SPACE_MARK.encode()] if marked else []
        super().__init__(path, pieces, specials, any(blanks), mark)

    def _encode_part(self, text: str) -> list[int]:
        return self._model.encode(text, add_special_tokens=False).ids


def read_spec(path: str) -> dict:
    """The content of a `tokenizer.json`. Raises ValueError when it is not whole or something else."""
    spec = read_json(path)
    model = spec.get("model")
    if (
        type(model) is not dict
        or model.get("type", "BPE") != "BPE"
        or not {"vocab", "merges"} <= model.keys()
    ):
        raise ValueError(
            f"{path} is no tokenizer.json of a BPE: it has no such model with a vocabulary and merges"
        )
    return spec


def byte_alphabet() -> list[str]:
    """The character that byte-level BPE writes for each byte: itself where it can be seen, else one
    from U+0100 on.
    """
    seen = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = iter(range(256, 512))
    return [chr(byte if byte in seen else next(others)) for byte in range(256)]


def special_token(i: int, name: str) -> dict:
    """An entry of `added_tokens`."""
    flags = {
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }
    return {"id": i, "content": name, **flags}


def merges(vocab: dict[str, int]) -> list[list[str]]:
    """The merges of a vocabulary in order of rank: every pair of pieces that makes a piece.

    For vocabularies that say what may arise but not from which pair, as BPE joins the neighbours
    that make the piece of lowest rank.
    """
    found = []
    for piece in vocab:
        pairs = [
            [piece[:i], piece[i:]]
            for i in range(1, len(piece))
            if piece[:i] in vocab and piece[i:] in vocab
        ]
        found += sorted(pairs, key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))
    return found


_BYTE_OF = {character: byte for byte, character in enumerate(byte_alphabet())}


def byte_level_piece(piece: str) -> bytes:
    """The bytes of a piece of a byte-level vocabulary."""
    if all(character in _BYTE_OF for character in piece):
        return bytes(_BYTE_OF[character] for character in piece)
    return piece.encode()


def marked_piece(piece: str) -> bytes:
    """The bytes of a piece as SentencePiece writes them: a byte as <0x0A>, a blank as `SPACE_MARK`."""
    if re.fullmatch(r"<0x[0-9A-F]{2}>", piece):
        return bytes([int(piece[3:5], 16)])
    return piece.replace(SPACE_MARK, " ").encode()


def _parts(component: dict | None) -> Iterator[dict]:
    """The normalisers, or pre-tokenizers, that a component is made of."""
    if component is None:
        return
    members = component.get("normalizers") or component.get("pretokenizers")
    if members is None:
        yield component
    for member in members or ():
        yield from _parts(member)


def _drop_blank(part: dict) -> bool:
    """Stops a part from putting a blank before the text; whether it did."""
    kind = part.get("type")
    if kind == "Prepend":
        found, part["prepend"] = part["prepend"] == SPACE_MARK, ""
        return found
    if kind == "Metaspace":
        scheme = part.get("prepend_scheme") or (
            "always" if part.get("add_prefix_space", True) else "never"
        )
        part["prepend_scheme"] = "never"
        part.pop("add_prefix_space", None)
        return scheme != "never"
    if kind == "ByteLevel":
        found, part["add_prefix_space"] = bool(part.get("add_prefix_space")), False
        return found
    return False


def _specials(spec: dict, added: dict[str, int], named: dict[str, str]) -> dict[str, int]:
    """The tokens that no text may encode to: those added to the vocabulary but for white space, and
    those with a role.

    A padding token is not taken at its word: some models pad with an ordinary piece such as "!".
    """
    vocab = spec["model"]["vocab"]
    roles = {
        named.get("bos_token"),
        named.get("eos_token"),
        named.get("unk_token"),
        spec["model"].get("unk_token"),
    }
    found = {token: i for token, i in added.items() if not token.isspace()}
    return found | {token: vocab[token] for token in roles if token in vocab}


def _without(spec: dict, specials: dict[str, int]) -> dict:
    """The tokenizer without its special tokens: neither added, nor in the vocabulary, nor the
    result of merges.

    Added tokens of white space stay. They are put into the vocabulary, where their ids are sure:
    those of other added tokens `tokenizers` counts on from the size of the vocabulary, whatever the
    file says.
    """
    model = {**spec["model"], "unk_token": None}
    if not specials.keys().isdisjoint(model["vocab"]):
        model["vocab"] = {piece: i for piece, i in model["vocab"].items() if piece not in specials}
        pairs = (
            (merge, merge.split(" ", 1) if isinstance(merge, str) else merge)
            for merge in model["merges"]
        )
        model["merges"] = [
            merge for merge, pair in pairs if specials.keys().isdisjoint((*pair, "".join(pair)))
        ]
    kept = [token for token in spec.get("added_tokens") or [] if token["content"] not in specials]
    model["vocab"] = model["vocab"] | {token["content"]: token["id"] for token in kept}
    return {
        **spec,
        "model": model,
        "added_tokens": kept,
        "truncation": None,
        "padding": None,
        "post_processor": None,
    }
