import pytest

from sdmw.checkpoints.wrappers import around, bare


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("_orig_mod.module.a.weight", "a.weight"),
        ("a._fsdp_wrapped_module._checkpoint_wrapped_module.b.weight", "a.b.weight"),
        ("a.module.b", "a.b"),
        ("a.submodule.b", "a.submodule.b"),
        ("module", "module"),  # a tensor of this name
        ("a.module", "a.module"),
    ],
)
def test_a_name_without_wrappers(name, expected):
    assert bare(name) == expected


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["module._orig_mod.a", "module._orig_mod.b"], "module._orig_mod."),
        (["module.a", "b"], ""),
        (["a._orig_mod.b"], ""),
        ([], ""),
    ],
)
def test_what_lies_around_all(names, expected):
    assert around(names) == expected
