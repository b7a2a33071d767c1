"""adapter_config.json of a PEFT adapter: what its weights are scaled by, and what sdmw cannot do exactly.

Source: peft 0.21's LoraConfig and `get_pattern_key`; rsLoRA, arXiv:2312.03732.
"""

import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import xxhash

from sdmw.checkpoints.formats._json import most_values, parse, told
from sdmw.errors import CheckpointError, Problem
from sdmw.storage.access import LEAST, Access
from sdmw.storage.files import read_bounded
from sdmw.storage.pointers import FETCH, IS_POINTER, is_pointer

ADAPTER_CONFIG = "adapter_config.json"
LARGEST = 2**20  # bytes
MOST_VALUES = 20_000
LONGEST_PATTERN = 500  # characters
MOST_PATTERNS = 10_000  # keys of one pattern field
MOST_MATCHES = 2_000_000  # keys by modules: each key is tried on every module that no earlier one matches
MOST_REPEATS = 2  # of a pattern: matching takes time with the power of them
MOST_ALTERNATIVES = 8  # each may double the time

# What has no part in the result once the weights are there.
_OF_TRAINING = frozenset((
    "peft_type", "auto_mapping", "base_model_name_or_path", "revision", "peft_version", "task_type", "inference_mode",
    "r", "target_modules", "exclude_modules", "lora_alpha", "lora_dropout", "fan_in_fan_out", "bias", "use_rslora",
    "modules_to_save", "init_lora_weights", "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern",
    "megatron_core", "loftq_config", "eva_config", "corda_config", "lora_ga_config", "runtime_config",
    "ensure_weight_tying", "qalora_group_size",
))  # fmt: skip
_OF_PROMPTS = (
    "PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT", "CARTRIDGE", "ADAPTION_PROMPT",
)  # fmt: skip
# Initialisations that leave the base as it is; the others change it, so that the adapter alone says too little.
_HARMLESS_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")
_REPEATED_GROUP = re.compile(r"[)\]][*+{?]|\\[1-9]|\(\?")


Patterns = tuple[tuple[re.Pattern[str], float], ...]


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """What of the config enters the result.

    Attributes:
        base: what the adapter was trained on, as its trainer called it; empty where it does not say.
        rank, alpha: of modules that no pattern names.
        rank_pattern, alpha_pattern: regular expressions of module names, the first that matches counts.
        rslora: alpha is divided by the root of the rank.
        fan_in_fan_out: weights lie as (in, out), as in GPT-2's Conv1D.
        task_type: what the model is for, in peft's words; None where it does not say.
        ties: where the model ties its head to its embedding, the adapter does so too.
    """

    base: str
    rank: int
    alpha: float
    rank_pattern: Patterns
    alpha_pattern: Patterns
    rslora: bool
    fan_in_fan_out: bool
    task_type: str | None
    ties: bool

    @property
    def patterns(self) -> int:
        """How many there are."""
        return len(self.rank_pattern) + len(self.alpha_pattern)

    def rank_of(self, module: str) -> int:
        """The rank that a module's matrices must have."""
        return int(_matching(self.rank_pattern, module, self.rank))

    def scaling_of(self, module: str, rank: int) -> float:
        """What the product of a module's matrices is multiplied by."""
        alpha = _matching(self.alpha_pattern, module, self.alpha)
        return alpha / math.sqrt(rank) if self.rslora else alpha / rank


def read_adapter_config(directory: str, access: Access = LEAST) -> AdapterConfig:
    """Reads and checks it.

    Raises:
        CheckpointError: with all that is wrong, and all that sdmw cannot do exactly, by name.
    """
    where = os.path.join(directory, ADAPTER_CONFIG)
    raw = read_bounded(directory, ADAPTER_CONFIG, LARGEST, follow_links=access.follow_links)
    if is_pointer(raw):
        raise CheckpointError([Problem(where, "the file", IS_POINTER, FETCH)])
    if (values := most_values(raw)) > MOST_VALUES:
        raise CheckpointError([Problem(where, f"at most {MOST_VALUES:,} values", f"up to {values:,}")])
    try:
        config = parse(raw)
    except ValueError as error:
        raise CheckpointError([Problem(where, "", f"cannot be used: {error}")]) from None
    if not isinstance(config, dict):
        raise CheckpointError([Problem(where, "an object", f"{type(config).__name__} {told(config)}")])
    if config.get("peft_type") != "LORA":
        found = f"peft_type {told(config.get('peft_type'))}"
        mend = "Merge it into its base with peft's merge_and_unload, and give that model"
        if config.get("peft_type") in _OF_PROMPTS:
            mend = "Leave it out: it adds to the prompt and changes no weights"
        raise CheckpointError([Problem(where, "a LoRA adapter, peft_type LORA", found, mend)])
    if problems := [*_wrong_values(where, config), *_not_exact(where, config)]:
        raise CheckpointError(problems)
    return AdapterConfig(
        base=config.get("base_model_name_or_path") or "",
        rank=config["r"],
        alpha=float(config.get("lora_alpha", 8)),
        rank_pattern=_compiled(config.get("rank_pattern") or {}),
        alpha_pattern=_compiled(config.get("alpha_pattern") or {}),
        rslora=config.get("use_rslora") or False,
        fan_in_fan_out=config.get("fan_in_fan_out") or False,
        task_type=task if isinstance(task := config.get("task_type"), str) else None,
        ties=config.get("ensure_weight_tying") or False,
    )


def hash_of_config(directory: str, *, follow_links: bool) -> str:
    """XXH3-128 of an adapter's config, in hex: its matrices are scaled by what stands there.

    Raises:
        CheckpointError: it cannot be read.
    """
    return xxhash.xxh3_128_hexdigest(read_bounded(directory, ADAPTER_CONFIG, LARGEST, follow_links=follow_links))


def _wrong_values(where: str, config: dict[str, Any]) -> Iterator[Problem]:
    def wrong(name: str, expected: str, found: Any) -> Problem:
        return Problem(f"{where}: {name}", expected, told(found))

    if not _is_rank(config.get("r")):
        yield wrong("r", "a rank of at least 1", config.get("r"))
    if not _is_alpha(config.get("lora_alpha", 8)):
        yield wrong("lora_alpha", "a finite number", config["lora_alpha"])
    base = config.get("base_model_name_or_path") or ""
    if not isinstance(base, str) or "\0" in base:
        yield wrong("base_model_name_or_path", "text", config["base_model_name_or_path"])
    for name in ("use_rslora", "fan_in_fan_out", "ensure_weight_tying"):
        if not isinstance(config.get(name) or False, bool):
            yield wrong(name, "true or false", config[name])
    for name, fits, kind in (
        ("rank_pattern", _is_rank, "a rank of at least 1"),
        ("alpha_pattern", _is_alpha, "a finite number"),
    ):
        pattern = config.get(name) or {}
        if not isinstance(pattern, dict) or len(pattern) > MOST_PATTERNS:
            yield wrong(name, f"an object of at most {MOST_PATTERNS:,} patterns", pattern)
            continue
        for key, value in pattern.items():
            if not fits(value):
                yield Problem(f"{where}: {name} {told(key)}", kind, told(value))
            if not _is_tame(key):
                found = f"{told(key)}, which may take forever to match"
                expected = f"a plain name, or a pattern with at most {MOST_REPEATS} repeats and no repeated group"
                yield Problem(f"{where}: {name}", expected, found, "Write out the modules' names")


def _not_exact(where: str, config: dict[str, Any]) -> Iterator[Problem]:
    start = config.get("init_lora_weights")
    if not (start is None or isinstance(start, bool) or start in _HARMLESS_STARTS):
        found = f"{told(start)}, which also changed the base"
        mend = "Save the adapter with peft's path_initial_model_for_weight_conversion, which makes it plain LoRA"
        yield Problem(f"{where}: init_lora_weights", "plain LoRA", found, mend)
    for name, value in config.items():
        if name not in _OF_TRAINING and value not in (None, False, 0, "", [], {}):
            mend = "Merge it into its base with peft's merge_and_unload, and give that model"
            yield Problem(f"{where}: {told(name)}", "", f"{told(value)}: sdmw cannot do this exactly", mend)


def _is_rank(value: Any) -> bool:
    return type(value) is int and 1 <= value < 2**31


def _is_alpha(value: Any) -> bool:
    return type(value) in (int, float) and -1e30 < value < 1e30


def _is_tame(pattern: str) -> bool:
    """Whether matching it takes no longer than a low power of the name's length."""
    if len(pattern) > LONGEST_PATTERN or len(re.findall(r"[*+{?]", pattern)) > MOST_REPEATS:
        return False
    if pattern.count("|") > MOST_ALTERNATIVES:
        return False
    if _REPEATED_GROUP.search(pattern.replace(r"[0-9]+", "").replace(r"[0-9]*", "")):
        return False
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return False
    return True


def _compiled(patterns: Mapping[str, float]) -> Patterns:
    """As peft matches them: the module's whole name, or its end from a dot on."""
    return tuple((re.compile(rf"(.*\.)?({key})$"), float(value)) for key, value in patterns.items())


def _matching(patterns: Patterns, module: str, otherwise: float) -> float:
    """The value of the first pattern that matches a module's name."""
    return next((value for pattern, value in patterns if pattern.match(module)), otherwise)
