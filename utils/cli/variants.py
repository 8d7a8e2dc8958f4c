"""The paper's methods and ablations by name: what --variant and --set may change of a model's configuration."""

import dataclasses
import re
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from model import ModelConfig


class Variant(NamedTuple):
    """Words for --set that tell it from the paper's final method, what that is, and where the paper has it."""

    words: str
    says: str
    source: str


VARIANTS: dict[str, Variant] = {
    # what learns below the head
    "freezing": Variant("tuning=side placement=none", "a trained head on the frozen backbone's last block",
                        "Tables IV to VII"),
    "full": Variant("tuning=full", "the whole backbone learns", "Tables IV to VI"),
    "partial": Variant("tuning=partial:4", "the backbone's last 4 blocks and last norm learn", "Tables IV to VI"),
    "selavpr-global": Variant("tuning=selavpr", "two adapters inside every block learn",
                              "Tables IV to VI, equations 3 and 4"),
    "side-vanilla": Variant("tuning=side adapter=vanilla", "side networks of adapters without convolutions",
                            "Tables IV and V, equation 6"),
    "side-multiconv": Variant("tuning=side adapter=multiconv", "side networks of MultiConv adapters (default)",
                              "Tables IV to VI, equation 6"),
    # where the side networks' adapters sit
    "all": Variant("tuning=side placement=all", "an adapter after every block", "Table VII"),
    "every-2": Variant("tuning=side placement=every:2", "an adapter after every 2nd block", "Table VII, equation 7"),
    "every-3": Variant("tuning=side placement=every:3", "an adapter after every 3rd block", "Table VII, equation 7"),
    "every-6": Variant("tuning=side placement=every:6", "an adapter after every 6th block", "Table VII, equation 7"),
    "last-16": Variant("tuning=side placement=last:16",
                       "adapters after the last 16 blocks (default of large and giant)", "Table VII"),
    "last-12": Variant("tuning=side placement=last:12", "adapters after the last 12 blocks", "Table VII"),
    "last-8": Variant("tuning=side placement=last:8", "adapters after the last 8 blocks", "Table VII"),
    "last-4": Variant("tuning=side placement=last:4", "adapters after the last 4 blocks", "Table VII"),
    # how codes are learnt
    "direct": Variant("hashing=direct", "metric loss on relaxed codes, nothing of their sign", "Table XI"),
    "lc": Variant("hashing=lc", "direct and the locality-constrained loss, as we read [70]", "Table XI, equation 12"),
    "lc-error": Variant("hashing=lc-error", "lc by our second reading, a Gaussian error", "Table XI, equation 12"),
    "sc": Variant("hashing=sc", "direct and the similarity-constrained loss", "Table XI, equations 11 and 12"),
    "ste": Variant("hashing=ste", "metric loss on codes, straight-through", "Table XI, equation 14"),
    "sc-ste": Variant("hashing=sc+ste", "ste and sc, gradient through both (default)", "Table XI, equation 15"),
    # which branch comes first (train_rerank.py)
    "float-binary": Variant("order=float-binary", "the binary branch beside a trained float branch (default)",
                            "section III-C"),
    "binary-float": Variant("order=binary-float", "the float branch beside a trained binary branch", "section III-C"),
    "joint": Variant("order=joint", "both branches at once, from a foundation model", "section III-C"),
}

# Backbone and aggregation have options of their own, the branches follow from the script.
SETTABLE = {field.name: field.type for field in dataclasses.fields(ModelConfig)
            if field.name not in ("backbone", "branches", "aggregation")}
LARGEST = 2**20  # a layer so wide takes a gigabyte already
KINDS: dict[object, tuple[Callable[[str], Any], str]] = {
    int: (int, f"a whole number of at most {LARGEST}"), float: (float, "a number"),
    bool: ({"true": True, "false": False}.__getitem__, "true or false"),
    tuple[int, ...]: (lambda text: tuple(map(int, text.split(","))) if text else (),
                      "whole numbers, as 64,128,256, or nothing"),
}


def chosen_fields(variant: str | None, assignments: Sequence[str]) -> dict[str, object]:
    """The fields of ModelConfig that a variant and `field=value` words choose; a word outranks the variant.

    Raises ValueError for an unknown variant or field, or a value of another type than the field's. Whether the
    values fit together is ModelConfig's to say.
    """
    if variant is not None and variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}; choose one of {', '.join(VARIANTS)} ('help' explains them)")
    fields: dict[str, object] = {}
    for word in [*(VARIANTS[variant].words.split() if variant else []), *assignments]:
        name, equals, text = word.partition("=")
        if not equals or name not in SETTABLE:
            raise ValueError(f"--set {word!r}: expected field=value with a field of {', '.join(SETTABLE)}")
        kind, expected = KINDS.get(SETTABLE[name], (str, ""))
        try:
            fields[name] = value = kind(text)
            if kind is int and value > LARGEST:
                raise ValueError
        except (KeyError, ValueError):
            raise ValueError(f"--set {word[:60]!r}: {name} is {expected}") from None
    return fields


def _said(default: object) -> str:
    return "the one that fits" if default is None else "none" if default == () else str(default)


def listing() -> str:
    """What `--variant help` prints: every variant, then every field with its default."""
    variants = [(name, f"{variant.says} ({variant.source}); {variant.words}") for name, variant in VARIANTS.items()]
    # ModelConfig's docstring is the one place that explains its fields: a name, two spaces or more, and text, which
    # goes on in lines that are indented further.
    explained = dict(re.findall(r"^    (\w+)  +(.*(?:\n     .*)*)", ModelConfig.__doc__, re.MULTILINE))
    fields = [(field.name, f"{explained[field.name]} (default: {_said(field.default)})")
              for field in dataclasses.fields(ModelConfig) if field.name in SETTABLE]
    width = max(len(name) for name, _ in variants + fields) + 4

    def column(rows: list[tuple[str, str]]) -> str:
        return "\n".join(textwrap.fill(" ".join(text.split()), 118, initial_indent=f"  {name}".ljust(width),
                                       subsequent_indent=" " * width) for name, text in rows)

    return (f"--variant NAME: a method of the paper\n{column(variants)}\n\n"
            f"--set FIELD=VALUE ...: any field of the configuration; outranks --variant\n{column(fields)}")
