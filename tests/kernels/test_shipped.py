"""Machine code that a wheel brings is linked where it is the sources', the libraries' and the processor's own."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from faults.worlds import ALL
from kernels.copied import KEPT, LOADED, World
from sdmw.kernels import processor

ROOT = Path(__file__).resolve().parent.parent.parent
COMPILE = """
import sys
from pathlib import Path
from sdmw.kernels import calls, shipped

for group in set(calls.CALLS) - {"probe"}:
    del calls.CALLS[group]
for level in sys.argv[1:]:
    shipped.compile_into(shipped.PLACE, level)
"""
ITS_LEVEL = "from sdmw.kernels import processor\nprocessor.level = lambda: {level!r}\n"

pytestmark = pytest.mark.skipif(processor.level() is None, reason="no processor that wheels have machine code for")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What the build of a wheel compiles for the level of this processor; for all others it has empty files."""
    place = tmp_path_factory.mktemp("made")
    world = World(place)
    own = world.sources / "compiled"
    own.mkdir()
    subprocess.run([sys.executable, "-c", COMPILE, processor.level()], env=world.environment, check=True)
    (file,) = own.iterdir()
    for level in processor.LEVELS:
        if level != processor.level():
            (own / file.name.replace(processor.level(), level)).touch()
    return own


@pytest.fixture
def world(tmp_path, made):
    """A copy of the kernels as a wheel would install them."""
    world = World(tmp_path)
    shutil.copytree(made, world.sources / "compiled")
    return world


@pytest.fixture
def brought(world):
    """The file of this processor."""
    (path,) = (world.sources / "compiled").glob(f"*{processor.level()}*")
    return path


def test_a_first_run_compiles_and_writes_nothing(world):
    assert world.run() == (LOADED, [])
    assert not world.root.exists()


def test_nothing_has_to_be_written(world):
    Path(world.environment["TMPDIR"]).chmod(0o777)
    assert world.run(XDG_CACHE_HOME="/proc") == (LOADED, [])


DAMAGE = ["a bit", "another's entries", *(["empty", "noise", "cut"] if ALL else [])]


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_damaged_is_compiled_instead(world, brought, damage):
    content = bytearray(brought.read_bytes())
    if damage == "another's entries":
        with zipfile.ZipFile(brought, "w") as archive:
            archive.writestr("entries.json", '[{"unknown": 1}]')
    else:
        flipped = content.copy()
        flipped[len(content) // 2] ^= 4
        damaged = {"empty": b"", "cut": content[: len(content) // 2], "noise": os.urandom(500), "a bit": flipped}
        brought.write_bytes(damaged[damage])
    before = brought.read_bytes()
    words, warnings = world.run()
    assert (words[0], words[-1], warnings) == ("1.0", "linked", [])
    assert brought.read_bytes() == before  # an installed package's own
    kept = world.kept().read_bytes()
    assert world.run() == (LOADED, [])
    assert world.kept().read_bytes() == kept  # compiled once
    world.kept().write_bytes(kept[:100])
    assert world.run() == (LOADED, [])
    assert len(world.kept().read_bytes()) > 100


def test_damaged_and_nowhere_to_compile_to(world, brought):
    brought.write_bytes(b"")
    Path(world.environment["TMPDIR"]).chmod(0o777)
    words, warnings = world.run(XDG_CACHE_HOME="/proc")
    assert (words[0], words[-1], len(warnings)) == ("1.0", "here", 1)


def test_a_folder_in_the_place_of_a_file_is_passed_over(world, brought):
    brought.unlink()
    brought.mkdir()
    assert world.run() == (KEPT, [])


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_passed_over(world, brought):
    brought.chmod(0)
    words, warnings = world.run()
    assert (words[-1], warnings) == ("linked", [])


def test_that_of_other_sources_is_passed_over(world):
    text = (world.sources / "probe.py").read_text()
    (world.sources / "probe.py").write_text(text.replace("widened(words[0])", "widened(words[0]) + 1"))
    words, warnings = world.run()
    assert (words, warnings) == (["2.0", "True", "linked"], [])


def test_that_of_other_libraries_is_passed_over(world, brought):
    code = (
        "from sdmw.kernels import libraries, shipped\nprint(shipped.file_of('probe'))\n"
        "libraries.releases = lambda: ('another', 'release')\nprint(shipped.file_of('probe'))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=world.environment, capture_output=True, text=True)
    assert done.stdout.splitlines() == [str(brought), "None"], done.stderr


@pytest.mark.parametrize("level", [None, *processor.LEVELS])
def test_that_of_other_processors_is_passed_over(world, level):
    words, _ = world.run(ITS_LEVEL.format(level=level))
    assert words == (LOADED if level == processor.level() else KEPT if level is None else ["1.0", "linked"])
    assert world.root.exists() == (level != processor.level())


@pytest.mark.parametrize(
    ("name", "value", "brought"),
    [("NUMBA_OPT", "1", False), ("NUMBA_CPU_NAME", "x86-64-v3", False), ("NUMBA_NUM_THREADS", "1", True)],
)
def test_where_numba_s_settings_ask_for_other_code_it_is_compiled(world, name, value, brought):
    assert world.run(**{name: value}) == (LOADED if brought else KEPT, [])


def test_plain_python_is_not_replaced(world):
    words, _ = world.run(NUMBA_DISABLE_JIT="1")
    assert words[0] == "1.0"
    assert not world.root.exists()


FLAGS = {
    "an older one": (None, "fpu sse sse2 ssse3 cx16"),
    "Haswell": (
        "x86-64-v3",
        "cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3 abm avx avx2 bmi1 bmi2 f16c fma movbe xsave",
    ),
    "Skylake": (
        "x86-64-v4",
        "cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3 abm avx avx2 bmi1 bmi2 f16c fma movbe xsave "
        "avx512f avx512bw avx512cd avx512dq avx512vl",
    ),
    "Knights Landing": (
        "x86-64-v3",
        "cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3 abm avx avx2 bmi1 bmi2 f16c fma movbe xsave avx512f avx512cd",
    ),
}


@pytest.mark.parametrize("name", FLAGS)
def test_the_level_of_a_processor(monkeypatch, name):
    level, flags = FLAGS[name]
    monkeypatch.setattr(processor, "description", lambda: ("model\t\t: 1", f"flags\t\t: {flags}"))
    assert processor.level() == level


def test_the_level_of_an_arm_processor(monkeypatch):
    monkeypatch.setattr(processor, "description", lambda: ("CPU part\t: 0xd0c", "Features\t: fp asimd"))
    assert processor.level() is None


MERGE = """
import sys
import numpy as np
from sdmw.cli import main

sys.argv = ["sdmw", "merge", "recipe.yaml", "out"]
try:
    main()
finally:
    import sdmw
    print(sdmw.__file__, "numba" in sys.modules)
"""


@pytest.mark.skipif(not ALL, reason="builds a wheel, which compiles all kernels twice; scripts/test --all")
def test_a_wheel_compiles_nothing(tmp_path):
    """It is built as pip builds it, with what the build needs from where pip finds packages."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", tmp_path, ROOT], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("-py3-none-linux_x86_64.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", tmp_path / "site", wheel], check=True)
    data = ROOT / "tests" / "data"
    models = "".join(f"  - model: {data / name}\n" for name in ("corp", "func"))
    (tmp_path / "recipe.yaml").write_text(f"merge_method: sdm_w\nbase_model: {data / 'base'}\nmodels:\n{models}")
    given = {key: value for key, value in os.environ.items() if not key.startswith("NUMBA_")}
    given |= {"PYTHONPATH": str(tmp_path / "site"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", MERGE], env=given, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "compiling" not in done.stderr
    assert done.stdout.splitlines()[-1] == f"{tmp_path / 'site' / 'sdmw' / '__init__.py'} False"
    assert not (tmp_path / "cache").exists()
    assert list((tmp_path / "site" / "sdmw" / "reporting" / "pages" / "compiled").glob("jinja-*/tmpl_*.py"))
