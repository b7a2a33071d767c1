"""Runs mergekit's own commands over recipes, all in one process: `python run_mergekit.py RECIPE OUT [RECIPE OUT ...]`.

Started with ATEN_CPU_CAPABILITY=default in the environment, which torch reads when it is imported.
"""

import sys
from pathlib import Path

import yaml
from mergekit.scripts.multimerge import main as several
from mergekit.scripts.run_yaml import main as one

for recipe, out in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
    options = ["--quiet", "--no-write-model-card", "--no-copy-tokenizer", "--lora-merge-cache", "lora-cache"]
    if len(list(yaml.safe_load_all(Path(recipe).read_text()))) > 1:
        several.main([recipe, "--out-path", out, "--intermediate-dir", f"{out}-parts", *options], standalone_mode=False)
    else:
        one.main([recipe, out, *options], standalone_mode=False)
