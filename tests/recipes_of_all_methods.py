"""Recipes: one of every method, and of what else a report or a page tells of."""


def models(*names):
    return {"models": [{"model": name} for name in names]}


SDM_W = {"merge_method": "sdm_w", "base_model": "base", **models("corp", "func")}
LORA = {"merge_method": "lora", "base_model": "base", **models("one", "two")}
TRIMMED = ("ties", "breadcrumbs", "breadcrumbs_ties", "dare_linear", "dare_ties", "della_linear", "della")
RECIPES = {
    "sdm_w": SDM_W,
    "approximate": SDM_W | {"parameters": {"percentile": "approximate"}},
    **{name: SDM_W | {"parameters": {"granularity": name}} for name in ("module", "block", "component", "model")},
    "power": SDM_W | {"parameters": {"normalization": {"power": 5.5}, "lambda": 0.5}, "out_dtype": "float32"},
    "squares by layer": SDM_W | {"parameters": {"normalization": {"power": -1, "norm": 2, "scope": "layer"}}},
    "norms preserved": SDM_W | {"parameters": {"lambda": "preserve_norm"}},
    "norms of layers preserved": SDM_W
    | {"merge_method": "task_arithmetic", "parameters": {"lambda": {"preserve_norm": "layer"}}},
    "weights given": SDM_W | {"parameters": {"weight": 0.3}},
    "nothing measured": SDM_W | {"parameters": {"weight": [0.1, 0.9], "k": 0}},
    "rules and gradients": SDM_W | {"parameters": {"k": [{"filter": "mlp", "value": [0, 20]}, {"value": 10}]}},
    "nothing changed": SDM_W | models("same"),
    "linear": {"merge_method": "linear", **models("corp", "func")},
    "linear with a base": {"merge_method": "linear", "base_model": "base", **models("corp", "func")},
    "task_arithmetic": {**SDM_W, "merge_method": "task_arithmetic", "parameters": {"normalize": True}},
    **{name: SDM_W | {"merge_method": name, "parameters": {"weight": 0.5, "density": 0.6}} for name in TRIMMED},
    **{name: SDM_W | {"merge_method": name, "parameters": {"weight": 0.5}} for name in ("nuslerp", "multislerp")},
    **{name: SDM_W | {"merge_method": name} for name in ("model_stock", "karcher", "sce", "ram", "ramplus_tl")},
    **{
        name: SDM_W | models("corp") | {"merge_method": name, "parameters": {"t": 0.5}}
        for name in ("slerp", "nearswap")
    },
    "arcee_fusion": SDM_W | models("corp") | {"merge_method": "arcee_fusion"},
    "passthrough": {"merge_method": "passthrough", **models("corp")},
    "lora": LORA,
    "lora to an adapter": LORA | {"parameters": {"output": "adapter", "combination_type": "cat"}},
    "missing": SDM_W | models("less", "corp") | {"missing": "base"},
    "extra": SDM_W | models("more", "corp") | {"extra": "take"},
    "adapters": SDM_W | models("one", "corp", "base+two"),
    "an adapter of a copy": SDM_W | models("of-copy"),
    "the base among models": SDM_W | {"models": [{"model": "base", "parameters": {"k": 5}}, {"model": "corp"}]},
}
