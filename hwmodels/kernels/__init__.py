"""How long measured kinds of GPU kernels take: rooflines with structure, few parameters, fitted to measurements.

One file per kind. A kernel model is a pure function of arrays; `hwmodels.fit` finds its parameters and
`hwmodels.kernels.predict` answers rows of a measured table.
"""

from __future__ import annotations

import importlib
import pkgutil

from hwmodels.kernels.base import Communication, Kernel, Parameter, smooth_max

__all__ = ["Communication", "Kernel", "Parameter", "kernels", "smooth_max"]


def kernels() -> dict[str, Kernel]:
    """Name -> model, for every module here that offers `KERNEL`, in alphabetical order."""
    found = {}
    for info in sorted(pkgutil.iter_modules(__path__), key=lambda info: info.name):
        module = importlib.import_module(f"{__name__}.{info.name}")
        for kernel in getattr(module, "KERNELS", ()):
            found[kernel.name] = kernel
    return found
