"""The task families of the mini contest: their wording, programs, and reference answers.

Every input is `k` on one line and a list of small positive integers on the next. A family has
*facts*, which the statement always gives (above or below, sum or count), and *conventions*, which
it often leaves open (strict or not, the separator, what is printed when nothing is left): those
have to be learnt from feedback. Some conventions are more common than others, as in real contests,
so that a best guess is better than a random one.
"""

import dataclasses
import operator
from collections.abc import Callable, Mapping, Sequence

Facts = tuple[str, ...]
Choice = Mapping[str, str]  # convention name -> chosen option

# What a guess that overlooks the empty case has as its convention `empty`; no problem has it.
FORGOTTEN = "forgotten"


@dataclasses.dataclass(frozen=True)
class Option:
    """One way to settle a convention: its value, how common it is, and the words that state it."""

    value: str
    weight: float
    words: str = ""


@dataclasses.dataclass(frozen=True)
class Family:
    """A kind of task.

    Attributes:
      share: the fraction of the problems of its level.
      ask: (facts, stated conventions) -> the words between "print" and the clauses of the stated
        conventions.
      program: (facts, conventions) -> the text of a Python program.
      answer: (facts, conventions, k, numbers) -> what that program should print, or None where it
        crashes. Independent of `program`, so that each checks the other.
    """

    name: str
    share: float
    facts: tuple[Facts, ...]
    conventions: Mapping[str, tuple[Option, ...]]
    ask: Callable[[Facts, Choice], str]
    program: Callable[[Facts, Choice], str]
    answer: Callable[[Facts, Choice, int, Sequence[int]], str | None]


# `ask` words a stated bound; all other stated conventions add a clause.
BOUND = (Option("strict", 0.6), Option("inclusive", 0.4))
ORDER = (
    Option("given", 0.5, ", in input order"),
    Option("ascending", 0.3, ", ascending"),
    Option("descending", 0.2, ", descending"),
)
SORTED_ORDER = (Option("ascending", 0.6, ", ascending"), Option("descending", 0.4, ", descending"))
SEPARATOR = (
    Option(" ", 0.5, ", separated by spaces"),
    Option(" , ", 0.3, ", separated by commas"),
    Option(" - ", 0.2, ", separated by dashes"),
)
LABEL = (
    Option("", 0.4, ", unlabelled"),
    Option("ans:", 0.3, ", after ans:"),
    Option("result", 0.2, ", after result"),
    Option("total", 0.1, ", after total"),
)
EMPTY_LIST = (
    Option("-1", 0.4, ", -1 if empty"),
    Option("none", 0.3, ", none if empty"),
    Option("0", 0.2, ", 0 if empty"),
    Option("", 0.1, ", blank if empty"),
)
EMPTY_NUMBER = (
    Option("-1", 0.5, ", -1 if empty"),
    Option("0", 0.3, ", 0 if empty"),
    Option("none", 0.2, ", none if empty"),
)
WORDS = (
    Option("YES NO", 0.4, ", as YES or NO"),
    Option("yes no", 0.3, ", as yes or no"),
    Option("True False", 0.2, ", as True or False"),
    Option("1 0", 0.1, ", as 1 or 0"),
)
BASE = (Option("1", 0.6, ", from 1"), Option("0", 0.4, ", from 0"))
END = (Option("first", 0.6, ", the first"), Option("last", 0.4, ", the last"))
COPIES = (Option("all", 0.6, ", repeats included"), Option("once", 0.4, ", repeats once"))

READ = "k, *a = map(int, open(0).read().split())\n"
SIDES = (("above",), ("below",))
ENDS = (("largest",), ("smallest",))
COMPARE = {
    ("above", "strict"): ">",
    ("above", "inclusive"): ">=",
    ("below", "strict"): "<",
    ("below", "inclusive"): "<=",
}
HOLDS = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}


def _bound_words(side: str, stated: Choice) -> str:
    """The words for "above k" or "below k", which tell the bound if it is stated."""
    bound = stated.get("bound")
    if bound is None:
        return f"{side} k"
    if bound == "strict":
        return f"strictly {side} k"
    return "at least k" if side == "above" else "at most k"


def _selected(side: str, choice: Choice, k: int, numbers: Sequence[int]) -> list[int]:
    holds = HOLDS[COMPARE[side, choice["bound"]]]
    return [number for number in numbers if holds(number, k)]


def _selecting(side: str, choice: Choice, source: str = "a") -> str:
    """The first lines of programs that select the numbers above or below k into the list b."""
    return f"{READ}b = [x for x in {source} if x {COMPARE[side, choice['bound']]} k]\n"


def _literal(value: str) -> str:
    return value if value.lstrip("-").isdigit() else repr(value)


def _label_argument(choice: Choice) -> str:
    return f"{choice['label']!r}, " if choice["label"] else ""


def _labelled(choice: Choice, text: str) -> str:
    return f"{choice['label']} {text}" if choice["label"] else text


def _filter_program(facts: Facts, choice: Choice) -> str:
    orders = {"given": "b", "ascending": "sorted(b)", "descending": "sorted(b)[::-1]"}
    joined = f"{choice['separator']!r}.join(map(str, {orders[choice['order']]}))"
    otherwise = "" if choice["empty"] in ("", FORGOTTEN) else f" or {_literal(choice['empty'])}"
    return f"{_selecting(facts[0], choice)}print({joined}{otherwise})"


def _filter_answer(facts: Facts, choice: Choice, k: int, numbers: Sequence[int]) -> str:
    chosen = _selected(facts[0], choice, k, numbers)
    if not chosen:
        return "" if choice["empty"] == FORGOTTEN else choice["empty"]
    if choice["order"] != "given":
        chosen.sort(reverse=choice["order"] == "descending")
    return choice["separator"].join(str(number) for number in chosen)


def _agg_ask(facts: Facts, stated: Choice) -> str:
    return f" the {facts[0]} of those {_bound_words(facts[1], stated)}"


def _agg_program(facts: Facts, choice: Choice) -> str:
    name = {"sum": "sum", "number": "len", "largest": "max", "smallest": "min"}[facts[0]]
    empty = choice["empty"]
    if name in ("sum", "len"):
        value = f"{name}(b)" if empty in ("0", FORGOTTEN) else f"{name}(b) or {_literal(empty)}"
    else:
        value = f"{name}(b)" if empty == FORGOTTEN else f"{name}(b, default={_literal(empty)})"
    return f"{_selecting(facts[1], choice)}print({_label_argument(choice)}{value})"


def _agg_answer(facts: Facts, choice: Choice, k: int, numbers: Sequence[int]) -> str | None:
    chosen = _selected(facts[1], choice, k, numbers)
    if not chosen and choice["empty"] == FORGOTTEN:
        return _labelled(choice, "0") if facts[0] in ("sum", "number") else None
    if not chosen:
        return _labelled(choice, choice["empty"])
    functions = {"sum": sum, "number": len, "largest": max, "smallest": min}
    return _labelled(choice, str(functions[facts[0]](chosen)))


def _listing(choice: Choice) -> str:
    """The last line of programs that print the list b, which is sorted in ascending order."""
    ordered = "b" if choice["order"] == "ascending" else "b[::-1]"
    return f"print({_label_argument(choice)}{choice['separator']!r}.join(map(str, {ordered})))"


def _listed(choice: Choice, numbers: Sequence[int]) -> str:
    ordered = sorted(numbers, reverse=choice["order"] == "descending")
    return _labelled(choice, choice["separator"].join(str(number) for number in ordered))


def _topk_program(facts: Facts, choice: Choice) -> str:
    part = "[-k:]" if facts[0] == "largest" else "[:k]"
    return f"{READ}b = sorted(a){part}\n{_listing(choice)}"


def _topk_answer(facts: Facts, choice: Choice, k: int, numbers: Sequence[int]) -> str:
    return _listed(choice, sorted(numbers, reverse=facts[0] == "largest")[:k])


def _sort_program(facts: Facts, choice: Choice) -> str:
    return f"{READ}b = sorted(a)\n{_listing(choice)}"


def _yesno_ask(facts: Facts, stated: Choice) -> str:
    verb = "is" if facts[0] == "any" else "are"
    return f" whether {facts[0]} {verb} {_bound_words(facts[1], stated)}"


def _yesno_program(facts: Facts, choice: Choice) -> str:
    yes, no = choice["words"].split()
    printed = {"True": "c", "1": "int(c)"}.get(yes, f"{yes!r} if c else {no!r}")
    condition = f"x {COMPARE[facts[1], choice['bound']]} k"
    return f"{READ}c = {facts[0]}({condition} for x in a)\nprint({printed})"


def _yesno_answer(facts: Facts, choice: Choice, k: int, numbers: Sequence[int]) -> str:
    found = len(_selected(facts[1], choice, k, numbers))
    yes, no = choice["words"].split()
    return yes if found >= (1 if facts[0] == "any" else len(numbers)) else no


def _index_program(facts: Facts, choice: Choice) -> str:
    start = "a, 1" if choice["base"] == "1" else "a"
    item = "b[0]" if choice["end"] == "first" else "b[-1]"
    otherwise = "" if choice["empty"] == FORGOTTEN else f" if b else {_literal(choice['empty'])}"
    condition = f"x {COMPARE[facts[0], choice['bound']]} k"
    return f"{READ}b = [i for i, x in enumerate({start}) if {condition}]\nprint({item}{otherwise})"


def _index_answer(facts: Facts, choice: Choice, k: int, numbers: Sequence[int]) -> str | None:
    holds = HOLDS[COMPARE[facts[0], choice["bound"]]]
    places = [place for place in range(len(numbers)) if holds(numbers[place], k)]
    if not places:
        return None if choice["empty"] == FORGOTTEN else choice["empty"]
    return str((places[0] if choice["end"] == "first" else places[-1]) + int(choice["base"]))


def _distinct_program(facts: Facts, choice: Choice) -> str:
    name = "sum" if facts[0] == "sum" else "len"
    source = "a" if choice["copies"] == "all" else "set(a)"
    return f"{_selecting(facts[1], choice, source)}print({_label_argument(choice)}{name}(b))"


def _distinct_answer(facts: Facts, choice: Choice, k: int, numbers: Sequence[int]) -> str:
    chosen = _selected(facts[1], choice, k, numbers)
    kept = chosen if choice["copies"] == "all" else list(dict.fromkeys(chosen))
    return _labelled(choice, str(sum(kept) if facts[0] == "sum" else len(kept)))


def _kth_program(facts: Facts, choice: Choice) -> str:
    source = "a" if choice["copies"] == "all" else "set(a)"
    item = "b[-k]" if facts[0] == "largest" else "b[k - 1]"
    return f"{READ}b = sorted({source})\nprint({_label_argument(choice)}{item})"


def _kth_answer(facts: Facts, choice: Choice, k: int, numbers: Sequence[int]) -> str | None:
    kept = numbers if choice["copies"] == "all" else set(numbers)
    ranked = sorted(kept, reverse=facts[0] == "largest")
    return _labelled(choice, str(ranked[k - 1])) if k <= len(ranked) else None


FILTER = Family(
    "filter",
    0.35,
    SIDES,
    {"bound": BOUND, "order": ORDER, "separator": SEPARATOR, "empty": EMPTY_LIST},
    lambda facts, stated: f" those {_bound_words(facts[0], stated)}",
    _filter_program,
    _filter_answer,
)
# Without "largest above" and "smallest below": their bound matters only if nothing is selected.
AGG = Family(
    "agg",
    0.25,
    (
        *((what, side) for what in ("sum", "number") for side in ("above", "below")),
        ("largest", "below"),
        ("smallest", "above"),
    ),
    {"bound": BOUND, "label": LABEL, "empty": EMPTY_NUMBER},
    _agg_ask,
    _agg_program,
    _agg_answer,
)
TOPK = Family(
    "topk",
    0.2,
    ENDS,
    {"order": SORTED_ORDER, "separator": SEPARATOR, "label": LABEL},
    lambda facts, stated: f" the k {facts[0]}",
    _topk_program,
    _topk_answer,
)
YESNO = Family(
    "yesno",
    0.2,
    tuple((how, side) for how in ("any", "all") for side in ("above", "below")),
    {"bound": BOUND, "words": WORDS},
    _yesno_ask,
    _yesno_program,
    _yesno_answer,
)
INDEX = Family(
    "index",
    0.4,
    SIDES,
    {"bound": BOUND, "base": BASE, "end": END, "empty": EMPTY_NUMBER},
    lambda facts, stated: f" where one is {_bound_words(facts[0], stated)}",
    _index_program,
    _index_answer,
)
DISTINCT = Family(
    "distinct",
    0.3,
    tuple((how, side) for how in ("sum", "number") for side in ("above", "below")),
    {"bound": BOUND, "copies": COPIES, "label": LABEL},
    _agg_ask,
    _distinct_program,
    _distinct_answer,
)
KTH = Family(
    "kth",
    0.3,
    ENDS,
    {"copies": COPIES, "label": LABEL},
    lambda facts, stated: f" the one that is k-th {facts[0]}",
    _kth_program,
    _kth_answer,
)
# Never trained on: topk teaches all that its statements and programs consist of.
SORT = Family(
    "sort",
    1.0,
    (("all",),),
    {"order": SORTED_ORDER, "separator": SEPARATOR, "label": LABEL},
    lambda facts, stated: " them all sorted",
    _sort_program,
    lambda facts, choice, k, numbers: _listed(choice, numbers),
)

LEVELS = {"standard": (FILTER, AGG, TOPK, YESNO), "hard": (INDEX, DISTINCT, KTH)}
TRANSFER = (SORT,)
