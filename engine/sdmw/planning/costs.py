"""Processor time of each method, measured: Intel Xeon with AVX-512, one thread, a base and two fine-tunes."""

from dataclasses import dataclass

from sdmw.planning.estimate import Kind
from sdmw.tensors.dtype import DType


@dataclass(frozen=True, slots=True)
class Costs:
    """ns for a byte that is read of inputs: to measure, further looks included, and to apply, writing included."""

    bf16: tuple[float, float]
    f16: tuple[float, float]
    f32: tuple[float, float]

    def of(self, dtype: DType) -> tuple[float, float]:
        """The cost for inputs of a dtype; other dtypes cost as much as bfloat16."""
        return {DType.F16: self.f16, DType.F32: self.f32}.get(dtype, self.bf16)


MACHINE = "an Intel Xeon with AVX-512"
# What `benchmarks/costs.py` printed. Adapters and aligned vocabularies cost more than their bytes: they are not in it.
COSTS = {
    "sdm_w": Costs((0.34, 0.27), (0.45, 0.42), (0.24, 0.22)),
    "linear": Costs((0.00, 0.37), (0.00, 0.51), (0.00, 0.32)),
    "task_arithmetic": Costs((0.00, 0.36), (0.00, 0.45), (0.00, 0.25)),
    "passthrough": Costs((0.00, 0.52), (0.00, 0.84), (0.00, 0.52)),
    "slerp": Costs((0.45, 0.36), (0.50, 0.49), (0.26, 0.36)),
    "nearswap": Costs((0.00, 0.45), (0.00, 0.54), (0.00, 0.32)),
    "nuslerp": Costs((0.35, 0.29), (0.41, 0.51), (0.22, 0.24)),
    "multislerp": Costs((0.36, 0.31), (0.40, 0.40), (0.24, 0.23)),
    "karcher": Costs((0.41, 0.34), (0.48, 0.47), (0.30, 0.28)),
    "model_stock": Costs((0.33, 0.27), (0.43, 0.43), (0.24, 0.23)),
    "ties": Costs((0.78, 0.47), (1.00, 0.60), (0.64, 0.41)),
    "breadcrumbs": Costs((1.20, 0.37), (1.51, 0.49), (0.84, 0.26)),
    "breadcrumbs_ties": Costs((1.21, 0.42), (1.57, 0.59), (0.87, 0.32)),
    "dare_linear": Costs((0.67, 0.57), (0.78, 0.72), (0.40, 0.39)),
    "dare_ties": Costs((0.70, 0.66), (0.78, 0.78), (0.44, 0.50)),
    "della_linear": Costs((1.89, 1.66), (2.55, 2.44), (2.30, 2.27)),
    "della": Costs((1.89, 1.96), (2.68, 2.64), (2.25, 2.34)),
    "sce": Costs((1.76, 0.66), (2.29, 0.84), (1.12, 0.48)),
    "arcee_fusion": Costs((5.12, 2.50), (4.88, 2.48), (2.05, 1.08)),
    "ram": Costs((0.00, 0.51), (0.00, 0.64), (0.00, 0.32)),
    "ramplus_tl": Costs((0.31, 0.43), (0.36, 0.50), (0.21, 0.29)),
}
COPYING = "passthrough"  # what is not merged costs as much
TILE = 1e-4  # s of Python in a worker for a tile, which threads of one process do one at a time
# s of the driver for a task: `simulation.py`
TASK: dict[Kind, float] = {"threads": 1e-4, "processes": 4e-4, "dask": 2e-3}
START = 0.7  # s from the command to the first pass, and from the last to its end
