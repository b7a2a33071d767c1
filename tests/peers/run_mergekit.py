"""Runs mergekit's own command over recipes, all in one process: `python run_mergekit.py RECIPE OUT [RECIPE OUT ...]`.

Started with ATEN_CPU_CAPABILITY=default in the environment, which torch reads when it is imported.
"""

import sys

from mergekit.scripts.run_yaml import main

for recipe, out in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
    main.main([recipe, out, "--quiet", "--no-write-model-card", "--no-copy-tokenizer"], standalone_mode=False)
