"""BPE from a `tokenizer.json`: byte-level (Llama 3, Qwen2, SmolLM2) or SentencePiece's (Phi-3)."""

import json
import re
from collections.abc import Iterator

import tokenizers

from rlef_jax.runtime import files
from rlef_jax.tokenizer.vocabulary import LAYOUT_TOKENS, SPACE_MARK, Vocabulary, named_tokens


class BpeTokenizer(Vocabulary):
    """A BPE that `tokenizers` runs without its special tokens, so that no text gives one.

    `decode(encode(text)) == text` but for tokenizers that lose text by themselves: Qwen2 normalises
    (NFC), SmolLM2 leaves out bytes that its vocabulary lacks, those of very rare characters, and
    added tokens may strip the blanks around them. Where a blank goes before the text, it goes
    before every text and nowhere else, as in SentencePiece itself; some tokenizer.json add none
    when the text begins with one, and one more after each added token.

    Added tokens that are not special are text: they are encoded and decoded like other pieces.
    """

    def __init__(self, path: str, spec: dict):
        """Takes the content of a `tokenizer.json`, from `read_spec`, and the path of its file.

        Raises ValueError when it neither spells texts in bytes nor falls back to them, or when
        `tokenizers` refuses it.
        """
        model = spec["model"]
        parts = [*_parts(spec.get("normalizer")), *_parts(spec.get("pre_tokenizer"))]
        byte_pieces = [f"<0x{byte:02X}>" for byte in range(256)]
        marked = model.get("byte_fallback") and all(
            piece in model["vocab"] for piece in byte_pieces
        )
        if not (marked or any(part.get("type") == "ByteLevel" for part in parts)):
            reason = "is no byte-level BPE, nor one with byte fallback"
            raise ValueError(f"{path} {reason}: some texts would have no ids")
        to_bytes = marked_piece if marked else byte_level_piece
        added = {token["content"]: token["id"] for token in spec.get("added_tokens") or []}
        pieces = {i: content.encode() for content, i in added.items()}
        pieces |= {i: to_bytes(piece) for piece, i in model["vocab"].items()}
        specials = _specials(spec, named_tokens(path))
        pieces |= {i: name.encode() for name, i in specials.items()}
        blanks = [_drop_blank(part) for part in parts]
        backend = _without(spec, specials)
        try:
            self._model = tokenizers.Tokenizer.from_str(json.dumps(backend))
        except Exception as error:  # the library raises nothing narrower
            text = f"{path} is not a tokenizer.json that `tokenizers` reads: {error}"
            raise ValueError(text) from error
        mark = [model["vocab"][byte_pieces[byte]] for byte in SPACE_MARK.encode()] if marked else []
        super().__init__(path, pieces, specials, any(blanks), mark)

    def _encode_part(self, text: str) -> list[int]:
        return self._model.encode(text, add_special_tokens=False).ids


def read_spec(path: str) -> dict:
    """The content of a `tokenizer.json`; ValueError when it is not whole or not that of a BPE."""
    spec = files.read_object(path, "download it again")
    model = spec.get("model")
    is_bpe = type(model) is dict and model.get("type", "BPE") == "BPE"
    if not is_bpe or not {"vocab", "merges"} <= model.keys():
        reason = "it has no such model with a vocabulary and merges"
        raise ValueError(f"{path} is no tokenizer.json of a BPE: {reason}")
    return spec


def byte_alphabet() -> list[str]:
    """The character that byte-level BPE writes for each byte.

    The byte's own character where it is visible, else the next one from U+0100 on.
    """
    ranges = (("!", "~"), ("¡", "¬"), ("®", "ÿ"))
    visible = {byte for first, last in ranges for byte in range(ord(first), ord(last) + 1)}
    others = iter(range(256, 512))
    return [chr(byte if byte in visible else next(others)) for byte in range(256)]


def special_token(i: int, name: str) -> dict:
    """An entry of `added_tokens`."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": i, "content": name, **flags, "special": True}


def merges(vocab: dict[str, int]) -> list[list[str]]:
    """The merges of a vocabulary {piece: rank}, in order of rank: every pair that makes a piece.

    For vocabularies that do not say which pair makes a piece, since BPE joins the neighbours that
    make the piece of lowest rank.
    """
    found = []
    for piece in vocab:
        pairs = [[piece[:i], piece[i:]] for i in range(1, len(piece))]
        pairs = [pair for pair in pairs if pair[0] in vocab and pair[1] in vocab]
        found += sorted(pairs, key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))
    return found


_BYTE_OF = {character: byte for byte, character in enumerate(byte_alphabet())}


def byte_level_piece(piece: str) -> bytes:
    """The bytes of a piece of a byte-level vocabulary."""
    if all(character in _BYTE_OF for character in piece):
        return bytes(_BYTE_OF[character] for character in piece)
    return piece.encode()


def marked_piece(piece: str) -> bytes:
    """The bytes of a piece in SentencePiece's spelling: <0x0A> for a byte, ▁ for a blank."""
    if re.fullmatch(r"<0x[0-9A-F]{2}>", piece):
        return bytes([int(piece[3:5], 16)])
    return piece.replace(SPACE_MARK, " ").encode()


def _parts(component: dict | None) -> Iterator[dict]:
    """The single normalisers or pre-tokenizers of a component, which may be a nested sequence."""
    if component is None:
        return
    members = component.get("normalizers") or component.get("pretokenizers")
    if members is None:
        yield component
    for member in members or ():
        yield from _parts(member)


def _drop_blank(part: dict) -> bool:
    """Changes a part that puts a blank before the text to put none; returns whether it did."""
    kind = part.get("type")
    if kind == "Prepend":
        found, part["prepend"] = part["prepend"] == SPACE_MARK, ""
        return found
    if kind == "Metaspace":
        add = part.pop("add_prefix_space", True)  # of old files, which have no prepend_scheme
        scheme = part.get("prepend_scheme") or ("always" if add else "never")
        part["prepend_scheme"] = "never"
        return scheme != "never"
    if kind == "ByteLevel":
        found, part["add_prefix_space"] = bool(part.get("add_prefix_space")), False
        return found
    return False


def _specials(spec: dict, named: dict[str, str]) -> dict[str, int]:
    """{token: id} of the tokens that no text may encode to.

    These are the added tokens that the file calls special, and those with a role or a place in a
    chat layout, whatever it calls them. The role of padding does not count: some models pad with an
    ordinary piece such as "!". White space is never special.
    """
    vocab, added = spec["model"]["vocab"], spec.get("added_tokens") or []
    roles = {named.get(role) for role in ("bos_token", "eos_token", "unk_token")}
    roles.add(spec["model"].get("unk_token"))
    found = {
        token["content"]: token["id"]
        for token in added
        if (token.get("special") or token["content"] in LAYOUT_TOKENS | roles)
        and not token["content"].isspace()
    }
    return found | {token: vocab[token] for token in roles if token in vocab}


def _without(spec: dict, specials: dict[str, int]) -> dict:
    """The tokenizer without its special tokens, added or in the vocabulary, and their merges.

    Other added tokens stay. They are put into the vocabulary so that they keep their ids:
    `tokenizers` numbers added tokens from the size of the vocabulary on, whatever the file says.
    """
    model = {**spec["model"], "unk_token": None}
    if not specials.keys().isdisjoint(model["vocab"]):
        model["vocab"] = {piece: i for piece, i in model["vocab"].items() if piece not in specials}
        model["merges"] = [merge for merge in model["merges"] if not _concerns(merge, specials)]
    kept = [token for token in spec.get("added_tokens") or [] if token["content"] not in specials]
    model["vocab"] = {token["content"]: token["id"] for token in kept} | model["vocab"]
    none = dict.fromkeys(("truncation", "padding", "post_processor"))
    return {**spec, "model": model, "added_tokens": kept, **none}


def _concerns(merge: str | list[str], specials: dict[str, int]) -> bool:
    """Whether a merge, 'a b' or ['a', 'b'], reads or makes a special token."""
    pair = merge.split(" ", 1) if isinstance(merge, str) else merge
    return not specials.keys().isdisjoint((*pair, "".join(pair)))
