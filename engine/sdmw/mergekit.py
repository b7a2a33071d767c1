"""mergekit's command, `mergekit-yaml`: what its flags mean here. Source: METHODS.md, section 10."""

import os
from collections.abc import Collection, Iterator
from typing import Annotated

import typer

_ALWAYS = "always on"
_PROCESSOR = "no effect: merging runs on the processor"
_STREAMED = "not needed: adapters are streamed"
_NOTES = {
    "lazy_unpickle": _ALWAYS,
    "low_cpu_memory": _ALWAYS,
    "async_write": _ALWAYS,
    "write_threads": "not needed: --num-threads sets all threads",
    "clone_tensors": "not needed: each tensor is written by itself",
    "allow_crimes": "no effect: names and shapes decide what can be merged",
    "trust_remote_code": "not needed: no code of a model is run",
    "lora_merge_cache": _STREAMED,
    "lora_merge_dtype": _STREAMED,
    **dict.fromkeys(("cuda", "device", "read_to_gpu", "multi_gpu", "gpu_rich"), _PROCESSOR),
}
_REFUSED = {
    "unsafe_truncate_embeddings": (
        "rows of different vocabularies would be merged by their numbers",
        "Merge fine-tunes that share a vocabulary",
    ),
    "pickled_weights": (
        "pickled weights run code when they are loaded",
        "Leave out --no-safe-serialization: sdmw writes safetensors",
    ),
}


def mergekit_yaml(
    context: typer.Context,
    config_file: Annotated[str, typer.Argument(metavar="RECIPE", help="mergekit's YAML file.")],
    out_path: Annotated[str, typer.Argument(metavar="OUT", help="Directory to create.")],
    num_threads: Annotated[int | None, typer.Option("--num-threads", "-j", min=1, help="Number of threads.")] = None,
    out_shard_size: Annotated[str, typer.Option(help="Bytes in one output file; 5B is 5 billion.")] = "5B",
    random_seed: Annotated[int | None, typer.Option(min=0, help="Seed of random methods.")] = None,
    transformers_cache: Annotated[str | None, typer.Option(metavar="DIR", help="Folder of the Hub cache.")] = None,
    copy_tokenizer: Annotated[bool, typer.Option(help="Copy the tokenizer's files.")] = True,
    write_model_card: Annotated[bool, typer.Option(help="Write README.md.")] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it exists.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Discard an interrupted run and start over.")] = False,
    ignore_unknown: Annotated[
        bool, typer.Option("--ignore-unknown", help="Report unknown recipe fields and continue.")
    ] = False,
    download: Annotated[bool, typer.Option(help="Download models not in the local Hub cache.")] = True,
    follow_links: Annotated[
        bool, typer.Option("--follow-links", help="Follow links out of a model's directory.")
    ] = False,
    header_limit: Annotated[str, typer.Option(help="Largest header of an input file.")] = "16MiB",
    quiet: Annotated[bool, typer.Option("--quiet/--no-quiet", "-q", help="Do not show progress.")] = False,
    pickled_weights: Annotated[
        bool,
        typer.Option(
            "--no-safe-serialization/--safe-serialization",
            help="Refused: weights are never pickled.",
            show_default=False,
        ),
    ] = False,
    write_threads: Annotated[int | None, typer.Option(help=_NOTES["write_threads"])] = None,
    verbose: Annotated[
        int, typer.Option("-v", count=True, help="no effect: all messages are shown anyway", show_default=False)
    ] = 0,
    allow_crimes: Annotated[bool, typer.Option(help=_NOTES["allow_crimes"], show_default=False)] = False,
    unsafe_truncate_embeddings: Annotated[
        bool, typer.Option(help="Refused: rows would be merged by number.", show_default=False)
    ] = False,
    trust_remote_code: Annotated[bool, typer.Option(help=_NOTES["trust_remote_code"], show_default=False)] = False,
    lora_merge_cache: Annotated[str | None, typer.Option(metavar="TEXT", help=_NOTES["lora_merge_cache"])] = None,
    lora_merge_dtype: Annotated[str | None, typer.Option(metavar="TEXT", help=_NOTES["lora_merge_dtype"])] = None,
    cuda: Annotated[bool, typer.Option(help=_NOTES["cuda"], show_default=False)] = False,
    device: Annotated[str | None, typer.Option(metavar="TEXT", help=_NOTES["device"])] = None,
    low_cpu_memory: Annotated[bool, typer.Option(help=_NOTES["low_cpu_memory"], show_default=False)] = False,
    lazy_unpickle: Annotated[bool, typer.Option(help=_NOTES["lazy_unpickle"], show_default=False)] = False,
    read_to_gpu: Annotated[bool, typer.Option(help=_NOTES["read_to_gpu"], show_default=False)] = False,
    multi_gpu: Annotated[bool, typer.Option(help=_NOTES["multi_gpu"], show_default=False)] = False,
    gpu_rich: Annotated[bool, typer.Option("--gpu-rich", help=_NOTES["gpu_rich"])] = False,
    async_write: Annotated[bool, typer.Option(help=_NOTES["async_write"], show_default=False)] = False,
    clone_tensors: Annotated[bool, typer.Option(help=_NOTES["clone_tensors"], show_default=False)] = False,
) -> None:
    """Merge with the options of mergekit's command.

    Options without a use here have no effect or are refused; a message says why.

    Models that are not on this machine are downloaded from the Hub.
    """
    notes = list(notes_on([name for name, value in context.params.items() if value]))
    if transformers_cache is not None:
        os.environ["HF_HUB_CACHE"] = transformers_cache  # read when huggingface_hub is imported, which is later
    from sdmw import api
    from sdmw.reporting import terminal

    for note in notes:
        terminal.print_note(note)
    left_out = {"tokenizer": not copy_tokenizer, "card": not write_model_card}
    report = api.merge(
        config_file, out_path, threads=num_threads, max_shard_size=out_shard_size, random_seed=random_seed,
        overwrite=overwrite, ignore_unknown=ignore_unknown, without=[name for name, left in left_out.items() if left],
        download=download, follow_links=follow_links, header_limit=header_limit, resume=not restart,
        progress=not quiet,
    )  # fmt: skip
    terminal.print_warnings(report.warnings, report.notes)
    terminal.print_report(report)


def notes_on(flags: Collection[str]) -> Iterator[str]:
    """What to say of flags that have no meaning here.

    Args:
        flags: names of the parameters that are set.

    Raises:
        UsageError: what a flag asks for is not done.
    """
    if refused := [name for name in flags if name in _REFUSED]:
        from sdmw.errors import Problem, UsageError

        raise UsageError([Problem(_flag(name), "", *_REFUSED[name]) for name in refused])
    yield from (f"{_flag(name)}: {_NOTES[name]}" for name in flags if name in _NOTES)


def _flag(name: str) -> str:
    return "--no-safe-serialization" if name == "pickled_weights" else f"--{name.replace('_', '-')}"
