"""`moesim model import`: a model file from a Hugging Face config.json."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main(options: argparse.Namespace) -> int:
    """Write the YAML of a model to a file or to stdout, and say on stderr what it lacks."""
    import yaml
    from omegaconf import OmegaConf

    from experiments.catalogue import model_line
    from experiments.explain import ConfigError
    from simulator.model_import import import_config

    if options.out and Path(options.out).suffix not in (".yaml", ".yml"):
        raise ConfigError(f"--out {options.out}: expected a name ending in .yaml.")
    found = import_config(options.config, options.name or "")
    text = yaml.safe_dump(found.fields, sort_keys=False, default_flow_style=None, width=118, allow_unicode=True)
    if options.out:
        Path(options.out).expanduser().write_text(text, encoding="utf-8")
        print(f"{options.out}: {found.spec.name}, {model_line(OmegaConf.create(found.fields))}")
        if found.spec.experts:
            print(f"use it with: moesim run model={options.out}, and a trace of it")
        else:
            print(f"a dense model has no trace, and so no run; look at it with: moesim show {options.out}")
    else:
        print(text, end="")
    for remark in found.remarks:
        print(f"note: {remark}", file=sys.stderr)
    return 0
