import json

import pytest

from sdmw.reporting.loading import loading


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "AutoModelForCausalLM.from_pretrained('out')"),
        ({"architectures": ["T5ForConditionalGeneration"]}, "T5ForConditionalGeneration.from_pretrained('out')"),
        ({"architectures": ["BertModel"]}, "BertModel.from_pretrained('out')"),
        ({"architectures": []}, "AutoModelForCausalLM.from_pretrained('out')"),
        ({"architectures": ["import os; x"]}, "AutoModelForCausalLM.from_pretrained('out')"),
        ({}, "AutoModelForCausalLM.from_pretrained('out')"),
        (
            {"architectures": ["Odd"], "auto_map": {"AutoConfig": "odd.OddConfig", "AutoModel": "odd.Odd"}},
            "AutoModel.from_pretrained('out', trust_remote_code=True)",
        ),
        (
            {"architectures": ["Odd"], "auto_map": {"AutoModel`\n; x": "odd.Odd"}},
            "AutoModelForCausalLM.from_pretrained('out', trust_remote_code=True)",
        ),
    ],
)
def test_the_class_is_the_config_s(tmp_path, monkeypatch, config, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").write_text(json.dumps(config))
    assert loading("out") == said
    assert loading("out", "path/to/it") == said.replace("'out'", "'path/to/it'")


def test_an_adapter_is_loaded_on_its_base(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "adapter_config.json").write_text("{}")
    assert loading("out") == "PeftModel.from_pretrained(base, 'out')"
    assert loading("out", "there") == "PeftModel.from_pretrained(base, 'there')"
