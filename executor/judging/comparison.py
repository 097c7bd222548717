"""Compares a program's output with the expected one, by one of three rules."""

from __future__ import annotations

import math
import re

COMPARISONS = ("strict", "codecontests", "exact-lines")

_INTEGER = re.compile(r"[+-]?[0-9]+")
_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?")
_HEXADECIMAL = re.compile(r"[+-]?0x([0-9a-f]+\.?[0-9a-f]*|\.[0-9a-f]+)(p[+-]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[+-]?(inf|infinity|nan)")
_CODE_CONTESTS_SPACE = re.compile(r"[ \n\t\r\v]+")
_ASCII_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


def check_comparison(name: str) -> None:
    """Raises ValueError, naming the choices, unless `name` is a comparison."""
    if name not in COMPARISONS:
        raise ValueError(f"unknown comparison {name!r}; choose from {', '.join(COMPARISONS)}")


def compare(expected: str, got: str, comparison: str = "strict") -> bool:
    """Whether the output `got` is right where `expected` is expected.

    `codecontests`: as the CodeContests data set judges, and so the paper. Tokens between white
        space, ASCII case ignored; tokens that both read as numbers (decimal, hexadecimal, inf, nan)
        are compared as doubles and may differ by less than 1e-5, so integers above 2**53 tie.
    `strict`: tokens between white space, case ignored; integers are exact; where the expected token
        has a decimal point or an exponent, numbers may differ by 1e-5, or by 1e-6 of the expected
        one. Infinities and NaN match as words.
    `exact-lines`: line by line, case matters; white space at the end of a line and empty lines at
        the end do not.

    Raises ValueError for any other name.
    """
    check_comparison(comparison)
    if comparison == "exact-lines":
        return expected == got or _lines(expected) == _lines(got)
    if comparison == "codecontests":
        split, match = _code_contests_tokens, _code_contests_match
    else:
        split, match = _strict_tokens, _strict_match
    expected_tokens, got_tokens = split(expected), split(got)
    if expected_tokens == got_tokens:
        return True
    return len(expected_tokens) == len(got_tokens) and all(map(match, expected_tokens, got_tokens))


def _lines(text: str) -> list[str]:
    lines = [line.rstrip() for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _strict_tokens(text: str) -> list[str]:
    return text.lower().split()


def _strict_match(expected: str, got: str) -> bool:
    if expected == got:
        return True
    if not (_DECIMAL.fullmatch(expected) and _DECIMAL.fullmatch(got)):
        return False
    expected_is_integer = _INTEGER.fullmatch(expected) is not None
    if expected_is_integer and _INTEGER.fullmatch(got):
        return _canonical_integer(expected) == _canonical_integer(got)
    expected_value, got_value = float(expected), float(got)
    if not (math.isfinite(expected_value) and math.isfinite(got_value)):
        return False
    difference = abs(expected_value - got_value)
    if expected_is_integer:
        # A float cannot vouch for an integer that it cannot hold.
        return abs(expected_value) < 2**53 and difference <= 1e-5
    return difference <= max(1e-5, 1e-6 * abs(expected_value))


def _canonical_integer(token: str) -> tuple[bool, str]:
    # As text: the interpreter refuses to convert integers of many thousand digits.
    digits = token.lstrip("+-").lstrip("0")
    return token.startswith("-") and digits != "", digits


def _code_contests_tokens(text: str) -> list[str]:
    # Form feeds do not separate, and only ASCII letters are lowered.
    return [token for token in _CODE_CONTESTS_SPACE.split(text.translate(_ASCII_LOWER)) if token]


def _code_contests_match(expected: str, got: str) -> bool:
    expected_value, got_value = _double(expected), _double(got)
    if expected_value is None or got_value is None:
        return expected == got
    # Infinity less infinity is NaN, which is not below the bound: equal infinities differ here, as
    # they do there.
    return abs(expected_value - got_value) < 1e-5


def _double(token: str) -> float | None:
    token = token.strip("\f")
    if _DECIMAL.fullmatch(token) or _NOT_FINITE.fullmatch(token):
        return float(token)
    if _HEXADECIMAL.fullmatch(token):
        try:
            return float.fromhex(token)
        except OverflowError:
            return -math.inf if token.startswith("-") else math.inf
    return None
