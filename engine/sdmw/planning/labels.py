"""What the numbers of a classifier's classes mean: models that count them otherwise are merged class by class."""

from collections.abc import Iterator, Mapping

from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.errors import quoted

_MOST = 3  # labels that are named, of one model


def label_warnings(inputs: Mapping[str, Checkpoint]) -> Iterator[str]:
    """A warning on each model whose labels differ from those of the first that has any.

    Args:
        inputs: by name, the base first.
    """
    named = {name: found for name, each in inputs.items() if (found := _labels(each))}
    first, ours = next(iter(named.items()), ("", {}))
    for name, theirs in named.items():
        differing = [number for number in theirs if number in ours and theirs[number] != ours[number]]
        if differing:
            shown = ", ".join(
                f"{number} {quoted(theirs[number])} ({quoted(ours[number])})" for number in differing[:_MOST]
            )
            more = f" and {len(differing) - _MOST} more" if len(differing) > _MOST else ""
            yield (
                f"model {quoted(name)}: its labels differ from those of {quoted(first)}: {shown}{more}. "
                "Classes are merged by their numbers"
            )


def _labels(checkpoint: Checkpoint) -> dict[str, str]:
    """The label of each class by its number; empty where they have the names that stand for none."""
    config = checkpoint.config or {}
    found = config.get("id2label")
    if isinstance(found, Mapping):
        labels = {str(number): str(label) for number, label in found.items()}
    else:
        numbers = config.get("label2id")
        labels = {str(number): label for label, number in numbers.items()} if isinstance(numbers, Mapping) else {}
    usual = all(label == f"LABEL_{number}" for number, label in labels.items())
    return {} if usual else labels
