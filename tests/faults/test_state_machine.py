"""Merges that are run, ended, killed, disturbed and checked in any order, against a model of what must come of it."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import sdmw
from checkpoints_on_disk import fine_tuned, llama_like, write_checkpoint
from command_line import everything_in
from faults.worlds import ALL, bits
from reference.rounding import STORED
from sdmw.errors import InputChangedError, OutputError, PlanError, ResumeError, SdmwError
from sdmw.running import journal
from sdmw.running.events import Progress, Published
from sdmw.writing.journal import read

EXAMPLES, STEPS = (150, 30) if ALL else (15, 12)
KILLS = 6 if ALL else 1  # in one run of the machine: each starts an interpreter
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # what is synced is not the question here
MODELS = ("base", "corp", "func")
SHARDS = (
    "base/model-00001-of-00002.safetensors",
    "base/model-00002-of-00002.safetensors",
    "corp/model.safetensors",
    "func/model.safetensors",
)

BASE = {"base_model": "base", "models": [{"model": "corp"}, {"model": "func"}]}
SOME = {"parameters": {"weight": 0.3}}
# What may be asked for: a recipe, and the size of an output's shards.
# Shards of 1,000 bytes: even the smallest models here are then laid out otherwise than in one file.
WISHES = [
    ({**BASE, "merge_method": "sdm_w"}, "5GB"),
    ({**BASE, "merge_method": "sdm_w"}, 1_000),
    ({**BASE, "merge_method": "sdm_w", "parameters": {"k": 35}}, "5GB"),
    ({**BASE, "merge_method": "sdm_w", "parameters": {"k": 35, "granularity": "block"}}, 1_000),
    ({**BASE, "merge_method": "sdm_w", "parameters": {"granularity": "model", "normalization": "square"}}, "5GB"),
    ({**BASE, "merge_method": "sdm_w", "parameters": {"weight": 0.3}}, "5GB"),
    ({**BASE, "merge_method": "sdm_w", "models": [{"model": "corp", **SOME}, {"model": "func", **SOME}]}, "5GB"),
    ({**BASE, "merge_method": "task_arithmetic", "parameters": {"weight": 0.3}}, "5GB"),
    ({**BASE, "merge_method": "linear", "parameters": {"weight": 0.3}}, "5GB"),
]

# Slowed down, so that there is a working phase to be killed in.
SLOW = """
import json, sys, time
import sdmw
from sdmw.running import journal, work
from sdmw.running.events import Progress
(recipe, shard), pause, options = json.loads(sys.argv[1])
journal.COMMIT_EVERY = 0.0
for name in ("measure", "apply"):
    real = getattr(work, name)
    setattr(work, name, lambda *a, real=real: (time.sleep(pause), real(*a))[1])
def progress(event):
    if isinstance(event, Progress):
        print("working", flush=True)
try:
    sdmw.merge(recipe, "out", progress=progress, max_shard_size=shard, **options)
except sdmw.SdmwError as error:
    print("refused", type(error).__name__, flush=True)
    sys.exit(error.exit_code)
"""


class EndedError(Exception):
    """Ends a run from its progress."""


options_of_a_run = st.fixed_dictionaries(
    {"threads": st.integers(1, 3), "overwrite": st.booleans(), "resume": st.sampled_from([True, True, True, False])}
)
moments = st.integers(1, 30)  # events; a run of these models has 10 to 24
ways_to_change = st.sampled_from(["bytes", "bytes, time put back", "touch", "replace"])
paces = st.sampled_from([0.0, 5.0])  # seconds between commits: at every chance, or none but the last


class Merges(RuleBasedStateMachine):
    """What is known: wish and inputs now, those with which the kept run was begun, and what the target holds."""

    def __init__(self):
        super().__init__()
        self.before = os.getcwd()
        self.folder = Path(tempfile.mkdtemp(prefix="sdmw-machine-", dir=MEMORY))
        os.chdir(self.folder)
        self.wish = 0
        self.changes = 0
        self.data = dict.fromkeys(MODELS, 0)  # which change each model's tensors had last
        self.configs = dict.fromkeys(MODELS, 0)
        self.inputs = {}  # all that is in them
        self.begun = None  # (wish, fingerprints) of the kept run
        self.remains = False  # the work directory, which may hold nothing to go on with
        self.published = None  # (data, bits) of the target
        self.known = {}  # undisturbed bits
        self.kills = 0

    def teardown(self):
        os.chdir(self.before)
        shutil.rmtree(self.folder)

    @initialize(seed=st.integers(0, 3), dtype=st.sampled_from(["BF16", "F32", "F16"]))
    def write_inputs(self, seed, dtype):
        rng = np.random.default_rng(seed)
        base = llama_like(rng, width=8)
        ids = {"model.ids": np.arange(5)}  # copied, not merged
        names = [*base, *ids]
        write_checkpoint(Path("base"), base | ids, shards=[names[:5], names[5:]])
        for model in MODELS[1:]:
            write_checkpoint(Path(model), fine_tuned(rng, base, dtype) | ids)
        self.look_at_inputs()

    # What happens to a merge

    @rule(wish=st.integers(0, len(WISHES) - 1))
    def change_the_recipe(self, wish):
        self.wish = wish

    @rule(shard=st.sampled_from(SHARDS), how=ways_to_change)
    def change_an_input(self, shard, how):
        self.disturb(shard, how)

    @rule(model=st.sampled_from(MODELS))
    def change_a_config(self, model):
        """The output gets the base's: a kept run is another one for it. The others' say nothing here."""
        self.changes += 1
        path = Path(model, "config.json")
        path.write_text(json.dumps(json.loads(path.read_text()) | {"number": self.changes}))
        self.configs[model] = self.changes
        self.look_at_inputs()

    @rule(options=options_of_a_run, every=paces)
    def run_to_the_end(self, options, every):
        self.attempt(options, every)

    @rule(options=options_of_a_run, every=paces, after=moments)
    def run_and_be_ended(self, options, every, after):
        def end(_event):
            raise EndedError

        self.attempt(options, every, after, end)

    @rule(options=options_of_a_run, every=paces, after=moments, second=options_of_a_run, ended=st.booleans())
    def begin_a_second_run_meanwhile(self, options, every, after, second, ended):
        def begin(event):
            if not isinstance(event, Published):
                told = self.published and not second["overwrite"]  # before there is any work: the target is there
                with pytest.raises(PlanError if told else OutputError) as caught:
                    self.merge(second, progress=False)
                assert told or f"another run (pid {os.getpid()}) is writing it" in str(caught.value)
            if ended:
                raise EndedError

        self.attempt(options, every, after, begin)

    @rule(
        options=options_of_a_run,
        every=paces,
        after=moments,
        shard=st.sampled_from(SHARDS),
        how=ways_to_change,
        ended=st.booleans(),
    )
    def change_an_input_meanwhile(self, options, every, after, shard, how, ended):
        def change(_event):
            self.disturb(shard, how)
            if ended:
                raise EndedError

        self.attempt(options, every, after, change, changed=shard)

    @rule(options=options_of_a_run, pause=st.sampled_from([0, 0.01]), moment=st.sampled_from([0, 0.02, 0.05, 0.1, 0.2]))
    def run_and_be_killed(self, options, pause, moment):
        self.kills += 1
        if self.kills > KILLS:
            return
        refusal, begun = self.foreseen(options)
        arguments = json.dumps([WISHES[self.wish], pause, options])
        command = [sys.executable, "-c", SLOW, arguments]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            first = process.stdout.readline()
            if first == "working\n":
                time.sleep(moment)
                process.kill()
            said = first + process.stdout.read()
        if refusal:
            assert said == f"refused {refusal.__name__}\n"
            return
        note(f"ended with {process.returncode}")
        assert first == "working\n", said
        assert process.returncode in (0, -9), said
        if os.path.lexists("out") and (self.published is None or bits("out") != self.published[1]):
            self.published = dict(self.data), self.undisturbed()[0]
        assert process.returncode or not os.path.lexists(".out.sdmw")
        self.look_at_kept(begun)

    @rule(share=st.floats(0, 1), journal=st.booleans())
    def damage_what_is_kept(self, share, journal):
        if self.begun is None:
            return
        if journal:
            path = Path(".out.sdmw", "journal")
            os.truncate(path, int(share * path.stat().st_size))
        else:
            for path in Path(".out.sdmw", "out").glob("*.safetensors"):
                flip(path, share)
        self.look_at_kept(self.begun)

    @rule(damage=st.one_of(st.none(), st.floats(0, 1)))
    def verify(self, damage):
        if self.published is None:
            return
        data, _ = self.published
        different = {model for model in MODELS if data[model] != self.data[model]}
        if different:  # small files are sampled whole
            with pytest.raises(InputChangedError) as caught:
                sdmw.verify("out", sample=1)
            assert {Path(problem.where).parent.name for problem in caught.value.problems} == different
            return
        found = sdmw.verify("out", sample=1)
        assert found.tiles == found.recomputed > 0
        assert found.problems == ()
        if damage is not None:
            path = sorted(Path("out").glob("*.safetensors"))[-1]
            flip(path, damage)
            assert sdmw.verify("out", sample=0.01).problems
            flip(path, damage)

    @rule()
    def take_the_result_away(self):
        if self.published is not None:
            shutil.rmtree("out")
            self.published = None

    # What holds after each

    @invariant()
    def the_target_is_absent_or_whole(self):
        assert os.path.lexists("out") == (self.published is not None)
        assert self.published is None or bits("out") == self.published[1]

    @invariant()
    def nothing_was_written_to_an_input(self):
        assert {model: everything_in(model) for model in self.inputs} == self.inputs

    @invariant()
    def nothing_lies_about(self):
        expected = [*self.inputs, *["out"] * (self.published is not None), *[".out.sdmw"] * self.remains]
        assert sorted(os.listdir()) == sorted(expected)

    # The model

    def foreseen(self, options):
        """How a run will be refused, if so, and what a run that is not was begun with."""
        now = (self.wish, fingerprints())
        going_on = self.begun if options["resume"] else None
        if self.published and not options["overwrite"]:
            return PlanError, None
        if going_on and going_on != now:
            return ResumeError, None
        return None, now

    def attempt(self, options, every, after=None, action=None, *, changed=None):
        """Merge in this process, act when so many events have come, and hold what came of it against the model."""
        refusal, begun = self.foreseen(options)
        kept, before = kept_files(), self.begun
        vouched = len(read(".out.sdmw/journal")[0]) > 1 and options["resume"] and self.begun is not None
        data, expected = dict(self.data), None if refusal else self.undisturbed()
        events, acted = [], False

        def receive(event):
            nonlocal acted
            events.append(event)
            if len(events) == after:
                acted = True
                action(event)

        try:
            with mock.patch.object(journal, "COMMIT_EVERY", every):
                self.merge(options, progress=receive)
            error = None
        except (SdmwError, EndedError) as caught:
            error = caught
        note(f"{len(events)} events, then {error!r}")
        if refusal:
            assert type(error) is refusal
            assert not events
            assert kept_files() == kept
            if refusal is ResumeError:
                self.check_names(error, before)
        elif any(isinstance(event, Published) for event in events):
            assert error is None or isinstance(error, EndedError)
            assert results("out") == expected
            self.published = data, expected[0]
            assert not os.path.lexists(".out.sdmw")
            self.begun, self.remains = None, False
        elif isinstance(error, EndedError):
            assert acted
            self.look_at_kept(begun)
            assert self.remains == (self.begun is not None)
            # Of an input that was changed nothing is vouched for any more.
            worth = isinstance(events[-1], Progress) and events[-1].stage == "apply" and not changed
            assert self.begun or not (vouched or worth)
        else:
            assert isinstance(error, InputChangedError)
            assert acted
            assert [problem.where for problem in error.problems] == [os.path.abspath(changed)]
            assert not os.path.lexists(".out.sdmw")
            self.begun, self.remains = None, False

    def check_names(self, error, begun):
        """Each thing that changed is named, once, and nothing else is."""
        (wish, prints), now = begun, fingerprints()
        (old, old_size), (new, new_size) = WISHES[wish], WISHES[self.wish]
        where, *named = [problem.where for problem in error.problems]
        assert where == os.path.abspath(".out.sdmw")
        files = [each.partition(": ")[0] for each in named if os.path.isabs(each)]
        assert sorted(files) == sorted(os.path.abspath(name) for name in prints if prints[name] != now[name])
        fields = {each for each in named if not os.path.isabs(each)}
        assert ("max_shard_size" in fields) == (old_size != new_size)
        assert bool(fields - {"max_shard_size"}) == (old != new)

    def merge(self, options, progress, out="out"):
        recipe, shard = WISHES[self.wish]
        sdmw.merge(recipe, out, progress=progress, max_shard_size=shard, **options)

    def undisturbed(self):
        """What a merge of the same inputs into another directory gives."""
        key = (self.wish, *self.data.values(), *self.configs.values())
        if key not in self.known:
            self.merge({}, False, "other")
            self.known[key] = results("other")
            shutil.rmtree("other")
        return self.known[key]

    def look_at_kept(self, begun):
        """Whether there is something to go on with, which was begun so."""
        self.remains = os.path.lexists(".out.sdmw")
        self.begun = begun if os.path.isdir(".out.sdmw/out") and read(".out.sdmw/journal")[0] else None

    def look_at_inputs(self):
        """As they are now, by us."""
        self.inputs = {model: everything_in(model) for model in MODELS}

    def disturb(self, shard, how):
        status = os.stat(shard)
        if how == "touch":
            os.utime(shard)
        elif how == "replace":
            shutil.copy2(shard, "copy")
            Path("copy").rename(shard)
        else:
            self.changes += 1
            self.data[Path(shard).parent.name] = self.changes
            set_an_element(shard, 0.5 + self.changes % 48 / 16)
            if how == "bytes, time put back":
                os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns))
        self.look_at_inputs()


def results(out):
    """The bits, and of the report what is no measurement."""
    report = json.loads(Path(out, "sdmw_report.json").read_text())
    return bits(out), {name: report[name] for name in ("models", "layers", "facts", "pieces", "inputs")}


def kept_files():
    """What the work directory holds: of the journal what is believed, a torn end may go at any time."""
    contents = {name: content for name, (_, _, content) in everything_in(".out.sdmw").items()}
    return {**contents, "pid": None, "journal": read(".out.sdmw/journal")[0]}


def fingerprints():
    """What tells whether a file is the same."""
    status = {shard: os.stat(shard) for shard in SHARDS}
    found = {shard: (s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino) for shard, s in status.items()}
    return {**found, "base/config.json": Path("base/config.json").read_bytes()}


def set_an_element(shard, value):
    """The first one of a tensor that is merged."""
    with open(shard, "r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        entry = min((name, entry) for name, entry in header.items() if entry.get("dtype") in STORED)[1]
        file.seek(8 + size + entry["data_offsets"][0])
        file.write(np.float32(value).astype(STORED[entry["dtype"]]).tobytes())


def flip(path, share):
    """A bit of a shard's tensors, at a share of them."""
    offset = 4096 + int(share * (os.stat(path).st_size - 4097))
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


TestMerges = Merges.TestCase
TestMerges.settings = settings(max_examples=EXAMPLES, stateful_step_count=STEPS)
