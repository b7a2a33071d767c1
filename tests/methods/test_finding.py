"""How methods are found: by the file of their name, else among those of all files."""

import subprocess
import sys

import pytest

from sdmw.methods import all_methods

LOADED = """
import sys
from sdmw.methods import all_methods
method = all_methods()[sys.argv[1]]
print(method.name, *(each.rpartition(".")[2] for each in sys.modules if each.startswith("sdmw.methods.")))
"""


def found(name):
    """What a process finds that looks for one method, and the files of methods that it has loaded then."""
    done = subprocess.run([sys.executable, "-c", LOADED, name], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    own, *files = done.stdout.split()
    return own, set(files)


@pytest.mark.parametrize(("name", "without"), [("sdm_w", {"ties", "dare", "ram"}), ("ties", {"sdm_w", "dare", "ram"})])
def test_a_method_called_as_its_file_needs_no_other_method(name, without):
    own, files = found(name)
    assert own == name
    assert name in files
    assert not files & without


def test_any_other_is_found_among_all():
    own, files = found("dare_ties")
    assert own == "dare_ties"
    assert {"sdm_w", "ties", "dare", "ram"} <= files


@pytest.mark.parametrize("name", ["method", "cuts", "__init__", "no_such", "sdmw", ""])
def test_a_file_s_name_is_no_method_s(name):
    assert name not in all_methods()
    with pytest.raises(KeyError):
        all_methods()[name]


def test_each_is_the_same_by_itself_and_among_all():
    everyone = dict(all_methods().items())
    assert len(everyone) == len(all_methods())
    assert all(all_methods()[name] is method and method.name == name for name, method in everyone.items())
