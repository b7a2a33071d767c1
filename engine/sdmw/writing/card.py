"""The model card (README.md): front matter that the Hub reads, a body for people. Every name in it is hostile."""

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from sdmw.writing.licences import Licences, agreed, common
from sdmw.writing.markdown import code_span, fenced

MOST_NAMES = 3  # of models, in the title

_ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")


@dataclass(frozen=True, slots=True)
class Card:
    """What a card says. Names are as people should read them, without paths of this machine.

    Attributes:
        method: name of the merge method, or what else made it.
        paper: where the method is published; None where it is not.
        base_model: what it was made on; None where there is none.
        models: name of each model, and what there is to say of it.
        hub_ids: the inputs that are on the Hub; without any the front matter names none.
        revisions: name of each input that is a snapshot of the Hub, and its commit.
        licences: of each input.
        pipeline_tag: the base's task; None where its card does not say.
        languages: the base's.
        datasets: of all inputs.
        not_merged: sentences in Markdown on what the output has that is not merged, or lacks.
        loading: Python that loads it.
        recipe_text: shown as it is; None where there is none.
        version: of sdmw.
        adapter: it is a PEFT adapter, and no model.
    """

    method: str
    paper: str | None
    base_model: str | None
    models: Sequence[tuple[str, Sequence[str]]]
    hub_ids: Sequence[str]
    revisions: Sequence[tuple[str, str]]
    licences: Licences
    pipeline_tag: str | None
    languages: Sequence[str]
    datasets: Sequence[str]
    not_merged: Sequence[str]
    loading: str
    recipe_text: str | None
    version: str
    adapter: bool = False

    def markdown(self) -> str:
        """The file's text. No time, path of the machine or other accident enters it beyond what is passed."""
        made = "Made" if self.adapter else "Merged"
        sections = [
            f"---\n{self._front_matter()}---",
            self._title(),
            f"{made} with sdmw {code_span(self.version)}.",
            _listed(self._origin()),
            "## Models",
            _listed(", ".join([code_span(name), *said]) for name, said in self.models),
            *_section("What is not merged", self.not_merged),
            *_section("Licences", self._licences()),
            *_section("Revisions on the Hub", [f"{code_span(n)}: commit {code_span(c)}" for n, c in self.revisions]),
            "## Loading",
            fenced(self.loading, "python"),
            *(("## Recipe", fenced(self.recipe_text, "yaml")) if self.recipe_text is not None else ()),
        ]
        return "\n\n".join(sections) + "\n"

    def _title(self) -> str:
        names = [code_span(name) for name, _ in self.models[:MOST_NAMES]]
        if more := len(self.models) - len(names):
            names.append(f"{more:,} more")
        *first, last = names
        of = f"{', '.join(first)} and {last}" if first else last
        return f"# {'Adapter of' if self.adapter else 'Merge of'} {of} ({code_span(self.method)})"

    def _origin(self) -> Iterator[str]:
        yield f"Method: {code_span(self.method)}"
        if self.paper is not None:
            yield "Paper: " + _ARXIV.sub(r"[arXiv:\1](https://arxiv.org/abs/\1)", self.paper)
        if self.base_model is not None:
            yield f"Base: {code_span(self.base_model)}"

    def _licences(self) -> Iterator[str]:
        """Each input's, where they are not one."""
        if agreed(self.licences):
            return
        if not any(licence for _, licence in self.licences):
            yield "None of the inputs names its licence in its card."
            return
        for name, licence in self.licences:
            yield f"{code_span(name)}: {code_span(str(licence)) if licence else 'not named in its card'}"

    def _front_matter(self) -> str:
        from ruamel.yaml import YAML
        from ruamel.yaml.scalarstring import DoubleQuotedScalarString as Quoted

        front: dict[str, object] = {}
        # Quoted and in ASCII: the Hub and llama.cpp read YAML 1.1, where a plain `no` is false, and split lines at more
        # characters than YAML does.
        if self.hub_ids:
            front["base_model"] = [Quoted(hub_id) for hub_id in self.hub_ids]
        front["base_model_relation"] = "adapter" if self.adapter else "merge"
        front["library_name"] = "peft" if self.adapter else "transformers"
        front["tags"] = [*(["lora"] if self.adapter else ["merge"]), "sdmw", *self._tags()]
        if licence := common(self.licences):
            front["license"] = [*map(Quoted, licence.words)] if licence.more else Quoted(licence.word)
            said = {"license_name": licence.name, "license_link": licence.link}
            front |= {key: Quoted(value) for key, value in said.items() if value is not None}
        if self.pipeline_tag is not None:
            front["pipeline_tag"] = Quoted(self.pipeline_tag)
        for key, words in (("language", self.languages), ("datasets", self.datasets)):
            if words:
                front[key] = [Quoted(word) for word in words]
        yaml = YAML()
        yaml.allow_unicode = False
        yaml.width = 2**31  # no line is folded
        written = io.StringIO()
        yaml.dump(front, written)
        return written.getvalue()

    def _tags(self) -> Iterator[str]:
        """The method, if its name is a word, and its paper as the Hub tags papers."""
        if re.fullmatch(r"[a-z_]+", self.method) and self.method != "lora":
            yield self.method
        yield from (f"arxiv:{number}" for number in _ARXIV.findall(self.paper or ""))


def _section(title: str, lines: Iterable[str]) -> tuple[str, ...]:
    listed = _listed(lines)
    return (f"## {title}", listed) if listed else ()


def _listed(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
