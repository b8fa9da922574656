"""`moesim`: the command line. Commands are imported when called, so that `--help` is quick.

Exit codes: 0 done; 1 done, but some points of a sweep failed; 2 something in the input is wrong, said in one
sentence on stderr; 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

_DESCRIPTION = """\
Trace-driven discrete-event simulator of Mixture-of-Experts inference.
example: moesim sweep policy/cache=lru,lfu,belady 'cache_gib=range(2,9)'
"""
KINDS = ("systems", "models", "platforms", "traces", "policies", "experiments", "uncertainty", "datasheets", "figures")


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Leaves room for the indentation of commands, so that the longest keeps its help on its line."""

    def add_argument(self, action: argparse.Action) -> None:
        super().add_argument(action)
        for command in self._iter_indented_subactions(action):
            length = len(self._format_action_invocation(command)) + self._current_indent
            self._action_max_length = max(self._action_max_length, length)

    def _format_action(self, action: argparse.Action) -> str:
        """Commands without a line above them that says COMMAND once more, so that the help fits a screen."""
        if isinstance(action, argparse._SubParsersAction) and action.metavar == "COMMAND":
            return "".join(self._format_action(command) for command in self._iter_indented_subactions(action))
        return super()._format_action(action)


class _UsageError(ValueError):
    """A command line that cannot be read."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _UsageError(f"{message.strip().rstrip('.')}; see '{self.prog} --help'.")


def _printing(command: argparse.ArgumentParser, as_json: str) -> None:
    """The switches of commands that show how far they are."""
    command.add_argument("-q", "--quiet", action="store_true", help="print nothing but errors, and JSON if asked for")
    command.add_argument("--json", action="store_true", help=as_json)


def parser() -> argparse.ArgumentParser:
    """The grammar of the command line."""
    top = _Parser(
        prog="moesim",
        description=_DESCRIPTION,
        formatter_class=_Formatter,
        add_help=False,
    )
    top.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)

    run = commands.add_parser("run", help="simulate what the overrides describe (Hydra's grammar)")
    overrides = run.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="e.g. system=cpu_in_place cache_gib=4"
    )
    overrides.completer = _complete  # type: ignore[attr-defined]
    run.add_argument("-m", "--multirun", action="store_true", help="run every combination of listed values")
    run.add_argument("--dry-run", action="store_true", help="print the configuration, and what it would take")
    _printing(run, "print the summary as JSON")

    sweep = commands.add_parser("sweep", help="simulate every combination, on all cores, resumable")
    overrides = sweep.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUES", help="e.g. policy/cache=lru,lfu cache_gib=2,4,8"
    )
    overrides.completer = _complete  # type: ignore[attr-defined]
    sweep.add_argument("--out", metavar="FOLDER", help="folder to write and to resume (default: runs/sweep/<name>)")
    sweep.add_argument("--workers", type=int, metavar="N", help="processes (default: one a core; 0: this one alone)")
    sweep.add_argument("--batches", type=int, default=8, metavar="N", help="jobs, for hydra/launcher=NAME (default: 8)")
    sweep.add_argument("--dry-run", action="store_true", help="print the configuration, and what it would take")
    _printing(sweep, "print what was done as JSON")

    search = commands.add_parser("search", help="look for the best points of a space (Optuna), resumable")
    overrides = search.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUES", help="a,b or interval(1,8) or range(1,9)"
    )
    overrides.completer = _complete  # type: ignore[attr-defined]
    search.add_argument(
        "--minimize", "--minimise", action="append", default=[], metavar="METRIC", help="such as tpot_mean_s"
    )
    search.add_argument(
        "--maximize", "--maximise", action="append", default=[], metavar="METRIC", help="several aims: Pareto front"
    )
    search.add_argument("--trials", type=int, default=100, metavar="N", help="points to run (default: 100)")
    search.add_argument("--batch", type=int, default=8, metavar="N", help="points drawn at once (default: 8)")
    search.add_argument("--seed", type=int, default=0, metavar="N", help="of what is drawn (default: 0)")
    search.add_argument("--out", metavar="FOLDER", help="folder to write and to resume (default: runs/search/<name>)")
    search.add_argument("--workers", type=int, metavar="N", help="processes (default: one a core; 0: this one alone)")
    _printing(search, "print the best points as JSON")

    room = commands.add_parser("capacity", help="best layout and batch under an SLO and a memory budget")
    overrides = room.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="e.g. platform=dgx_h100")
    overrides.completer = _complete  # type: ignore[attr-defined]
    room.add_argument("--slo-ttft-s", type=float, metavar="S", help="most seconds to the first token (default: any)")
    room.add_argument("--slo-tpot-s", type=float, metavar="S", help="most seconds per later token (default: any)")
    text = "of the requests that have to hold them: 50, 90, 99 (default: 99)"
    room.add_argument("--percentile", type=int, default=99, metavar="P", help=text)
    room.add_argument("--memory-gib", type=float, metavar="GIB", help="most of the fullest GPU (default: all it has)")
    room.add_argument("--out", metavar="FOLDER", help="folder to write and to resume (default: runs/capacity/<name>)")
    room.add_argument("--workers", type=int, metavar="N", help="processes (default: one a core; 0: this one alone)")
    _printing(room, "print front, best point and infeasible ones as JSON")

    idea = commands.add_parser("propose", help="is a machine that does not exist worth building?")
    idea.add_argument("box", metavar="BOX.yaml", help="the proposed machine: a platform file (docs/proposals.md)")
    text = "of every run, such as cache_gib=4"
    overrides = idea.add_argument("overrides", nargs="*", default=[], metavar="KEY=VALUE", help=text)
    overrides.completer = _complete  # type: ignore[attr-defined]
    text = "platforms to compare it with, by name or file"
    idea.add_argument("--against", nargs="+", action="append", required=True, metavar="PLATFORM", help=text)
    text = "SYSTEM,… of which the quickest counts, for all or MACHINE=SYSTEM,… for one; may be repeated"
    idea.add_argument("--system", action="append", default=[], metavar="[MACHINE=]SYSTEM", help=text)
    idea.add_argument("--model", help="a model, or a YAML's path (default: gpt_oss_20b)")
    idea.add_argument("--trace", help="a trace, or a path (default: gpt_oss_20b)")
    idea.add_argument("--small", action="store_true", help="fewer runs, to see what comes")
    idea.add_argument("--out", metavar="FOLDER", help="folder to write and to resume (default: runs/proposals/BOX)")
    idea.add_argument("--workers", type=int, metavar="N", help="processes (default: one a core; 0: this one alone)")
    _printing(idea, "print the speed-ups as JSON")

    figure = commands.add_parser("figure", help="draw a named figure, running what it needs")
    figure.add_argument("figure", metavar="NAME", help="as listed, or the path of a YAML of one's own")
    figure.add_argument("overrides", nargs="*", default=[], metavar="KEY=VALUE", help="added to every run")
    figure.add_argument("--out", metavar="FOLDER", help="folder to write (default: runs/figures)")
    figure.add_argument("--workers", type=int, metavar="N", help="processes (default: one a core; 0: this one alone)")
    text = "draw from this run or sweep folder, and run nothing; may be repeated"
    figure.add_argument("--from", dest="sources", action="append", default=[], metavar="FOLDER", help=text)
    text = "of these runs, only those with platform=rtx_3060, cache_gib=2,4, …; may be repeated"
    figure.add_argument("--where", dest="conditions", action="append", default=[], metavar="COLUMN=VALUE", help=text)
    _printing(figure, "print what was written as JSON")

    replay = commands.add_parser("replay", help="hits and misses of a cache policy on a trace, without time")
    replay.add_argument("trace", metavar="TRACE", help="name of a shipped trace, or a path")
    replay.add_argument("--policy", default="lru", help="a choice of policy/cache, or a YAML's path (default: lru)")
    replay.add_argument("--budget-mib", type=float, required=True, help="size of the cache in MiB")
    replay.add_argument("--scope", choices=("global", "layer"), default="global", help="one budget, or one a layer")
    replay.add_argument("--model", help="where the trace has no expert sizes: a model, or a YAML's path")
    replay.add_argument("--requests", type=int, help="replay only the first so many requests")
    replay.add_argument("--seed", type=int, default=0, help="of policies that draw (default: 0)")
    replay.add_argument("--rows", metavar="FILE", help="write one row per access (.csv or .parquet)")
    replay.add_argument("--json", action="store_true", help="print counts by phase and layer as JSON")

    beside = commands.add_parser("compare", help="your own measured times per token beside those of a run")
    beside.add_argument("run", metavar="RUN", help="folder of the run, such as runs/run")
    beside.add_argument("measured", metavar="MEASURED.csv", help="columns request, token (from 0), latency_s or _ms")
    beside.add_argument("--rows", metavar="FILE", help="write one row per token (.csv or .parquet)")
    beside.add_argument("--json", action="store_true", help="print the figures as JSON")

    why = commands.add_parser("explain", help="the constants a run depended on most, by origin")
    why.add_argument("run", metavar="RUN", help="folder of the run, such as runs/run")
    why.add_argument("--metric", default="tpot_mean_s", help="or ttft_mean_s, tokens_per_s (default: tpot_mean_s)")
    why.add_argument("--requests", type=int, default=4, metavar="N", help="run at most so many (default: 4)")
    why.add_argument("--json", action="store_true", help="print as JSON")

    ops = commands.add_parser("ops", help="times of GPU kernels by fitted models")
    works = ops.add_subparsers(dest="action", metavar="ACTION", required=True)
    ask = works.add_parser("predict", help="add predicted times to the rows of a table")
    ask.add_argument("file", metavar="FILE", help="rows as in hwmodels/measurements (.parquet or .csv)")
    ask.add_argument("--out", required=True, metavar="FILE", help="where to write them with the predictions")
    ask.add_argument("--table", help="name of the measured table, if the columns do not tell")
    ask.add_argument("--device", action="append", default=[], metavar="YAML", help="a datasheet of one's own")

    asked = commands.add_parser("serve-predict", help="TTFT and TPOT of serving engines by fitted models")
    asked.add_argument("file", metavar="FILE", help="rows of model, GPU, engine, layout, lengths (.csv or .parquet)")
    asked.add_argument("--out", required=True, metavar="FILE", help="where to write them with the predictions")
    asked.add_argument("--device", action="append", default=[], metavar="YAML", help="a datasheet of one's own")

    fitting = commands.add_parser("calibrate", help="fit kernel models; 'local': measure this machine")
    fitting.add_argument("kernels", nargs="*", metavar="KERNEL", help="some of the models (default: all)")
    fitting.add_argument("--out", metavar="FOLDER", help="folder of the fitted files (default: the package's own)")
    fitting.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default: 1)")
    fitting.add_argument("--no-fit", action="store_true", help="fit nothing: report on the files that are there")
    fitting.add_argument("--report", metavar="FILE.md", help="write the page of their errors, and its figures beside")

    checking = commands.add_parser("validate", help="models against what was measured or recorded")
    recorded = checking.add_subparsers(dest="action", metavar="ACTION", required=True)
    phone = recorded.add_parser("phone", help="a phone that streams experts from flash")
    phone.add_argument("--out", required=True, metavar="FOLDER", help="where to write report, figure and platform")
    drawn = recorded.add_parser("synthesis", help="synthetic traces beside requests that they were not fitted to")
    drawn.add_argument("--out", required=True, metavar="FOLDER", help="where to write the tables")
    drawn.add_argument("--trace", action="append", metavar="NAME", help="only this one; may be repeated")
    drawn.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of fitting and drawing, the first (default: 0)"
    )
    drawn.add_argument("--seeds", type=int, default=5, metavar="N", help="how many seeds (default: 5)")
    serving = recorded.add_parser("serving-rows", help="TTFT and TPOT of serving engines beside measured rows")
    serving.add_argument("--out", required=True, metavar="FOLDER", help="where to write the page, table and figures")
    text = "the measured rows (default: measured/serving.csv in the folder MOESIM_EXTRA_DATA)"
    serving.add_argument("--measured", metavar="FILE.csv", help=text)
    serving.add_argument("--fit", action="store_true", help="fit the engines' constants first (minutes)")
    rows = recorded.add_parser("runtime-rows", help="runs of the serving runtime beside measured rows")
    rows.add_argument("--out", required=True, metavar="FOLDER", help="where to write the page, table and figure")
    rows.add_argument("--measured", metavar="FILE.csv", help=text)
    rows.add_argument("--rows", type=int, default=80, metavar="N", help="how many to run (default: 80)")
    rows.add_argument("--workers", type=int, metavar="N", help="processes (default: all cores; 0: this one)")
    kept = "runs/validation/runtime_rows"
    rows.add_argument("--runs", default=kept, metavar="FOLDER", help=f"of finished runs (default: {kept})")
    for name in claim_sets():
        _claims(recorded.add_parser(name, help=f"published claims: {name}"))
    own = recorded.add_parser("claims", help="published claims of one's own")
    own.add_argument("folder", metavar="FOLDER", help="of claims files (docs/validation/claims.md)")
    _claims(own)

    trace = commands.add_parser("trace", help="import, transform, draw traces; their statistics")
    actions = trace.add_subparsers(dest="action", metavar="ACTION", required=True)
    bring = actions.add_parser("import", help="convert a file of any known format")
    bring.add_argument("source", metavar="SOURCE", help="the foreign file")
    bring.add_argument("destination", metavar="DEST", help="the trace file to write (.parquet)")
    bring.add_argument("--model", help="name of the model, if the file does not say")
    bring.add_argument("--native-top-k", type=int, help="the model's own top-k, if the file does not say")
    bring.add_argument("--dataset", help="what the requests were")
    bring.add_argument("--licence", help="of the data")
    bring.add_argument("--origin", help="where the file was published")
    bring.add_argument("--num-experts", type=int, metavar="N", help="experts per layer, if the file does not say")
    text = "of a cut or damaged file, keep the whole requests before the fault"
    bring.add_argument("--salvage", action="store_true", help=text)
    change = actions.add_parser("transform", help="crop, filter, sample, shuffle, combine, … into another trace")
    change.add_argument("source", metavar="SOURCE", help="name of a shipped trace, or a path")
    change.add_argument("destination", metavar="DEST", help="the trace file to write (.parquet)")
    text = "such as 'crop 128' or 'shuffle global seed=1'; may be repeated, done in order; 'help' lists them"
    change.add_argument("--do", dest="steps", action="append", required=True, metavar="STEP", help=text)
    draw = actions.add_parser("synthesize", help="draw a trace like a recorded one, or from published figures")
    kind = draw.add_mutually_exclusive_group(required=True)
    kind.add_argument("--fit", metavar="TRACE", help="like this one: name of a shipped trace, or a path")
    text = "a stand-in: mixtral_8x7b, deepseek_v3, … (docs/synthesis.md), or a YAML's path"
    kind.add_argument("--profile", metavar="NAME", help=text)
    draw.add_argument("--out", required=True, metavar="TRACE", help="the trace file to write (.parquet)")
    draw.add_argument("--requests", type=int, metavar="N", help="how many (default: as the source)")
    draw.add_argument("--tokens", type=int, metavar="N", help="of each request (default: as the source)")
    draw.add_argument("--layers", type=int, metavar="N", help="another number of layers")
    draw.add_argument("--experts", type=int, metavar="N", help="another number of experts per layer")
    draw.add_argument("--top-k", type=int, metavar="N", help="another number of experts per token")
    draw.add_argument("--seed", type=int, default=0, metavar="N", help="of what is drawn (default: 0)")
    record = actions.add_parser("capture", help="record the routing of a Hugging Face model (needs torch)")
    record.add_argument("model", metavar="MODEL", help="a folder, or a name on the Hugging Face hub")
    record.add_argument("--prompts", required=True, metavar="FILE", help='JSON lines of {"prompt": …, "task": …}')
    record.add_argument("--out", metavar="TRACE", help="the trace file to write (.parquet), resumable")
    record.add_argument("--requests", type=int, metavar="N", help="only the first so many prompts")
    record.add_argument("--prompt-tokens", type=int, default=0, metavar="N", help="cut prompts there (default: whole)")
    record.add_argument("--new-tokens", type=int, default=64, metavar="N", help="to generate (default: 64)")
    record.add_argument("--batch", type=int, default=8, metavar="N", help="prompts run together (default: 8)")
    record.add_argument("--temperature", type=float, default=1.0, metavar="T", help="0 is greedy (default: 1)")
    record.add_argument("--top-p", type=float, default=1.0, metavar="P", help="of sampling (default: 1)")
    record.add_argument("--seed", type=int, default=0, metavar="N", help="of sampling (default: 0)")
    record.add_argument("--probabilities", action="store_true", help="also of the experts that were not chosen")
    record.add_argument("--probability-bits", type=int, default=24, metavar="N", help="round them (8: as bfloat16)")
    record.add_argument("--guesses", type=int, default=0, metavar="D", help="look ahead so many layers, 0 to 3")
    record.add_argument("--norms", action="store_true", help="also of the hidden states that routers are given")
    record.add_argument("--embeddings", action="store_true", help="also one of each prompt, to find requests alike")
    record.add_argument("--tokens", metavar="FILE", help="also write the token ids, as JSON lines (default: not)")
    record.add_argument("--dtype", default="auto", help="of the weights (default: the model's own)")
    record.add_argument("--device", default="cpu", help="of torch, such as cuda (default: cpu)")
    record.add_argument("--revision", help="of a model on the hub")
    record.add_argument("--name", help="of the model in the trace (default: the last part of MODEL)")
    record.add_argument("--dataset", default="", help="what the prompts are")
    record.add_argument("--licence", default="", help="of the trace")
    record.add_argument("--overhead", action="store_true", help="measure what the hooks cost, and write nothing")
    asked = actions.add_parser("workload", help="look at a request list, or make one of its specification")
    asked.add_argument("file", metavar="FILE", help="a specification (.yaml) or a list (.csv, .parquet)")
    text = "whose requests are followed: a shipped name, or a path (default: gpt_oss_20b)"
    asked.add_argument("--trace", default="gpt_oss_20b", metavar="TRACE", help=text)
    asked.add_argument("--seed", type=int, default=0, metavar="N", help="of what is drawn (default: 0)")
    asked.add_argument("--out", metavar="FILE", help="write the list (.csv or .parquet), for workload.file")
    asked.add_argument("--json", action="store_true", help="print as JSON")
    measure = actions.add_parser("stats", help="load, locality, hit curves, transitions, beside their controls")
    measure.add_argument("trace", nargs="?", metavar="TRACE", help="name of a shipped trace, or a path")
    measure.add_argument("--requests", type=int, metavar="N", help="only the first so many requests")
    measure.add_argument("--seed", type=int, default=0, metavar="N", help="of the shuffled controls (default: 0)")
    measure.add_argument("--html", metavar="FILE", help="also write a page with pictures")
    measure.add_argument("--report", metavar="FILE.md", help="instead: write a page of all shipped traces")
    measure.add_argument("--json", action="store_true", help="print as JSON")

    model = commands.add_parser("model", help="import a model from a Hugging Face config.json")
    uses = model.add_subparsers(dest="action", metavar="ACTION", required=True)
    described = uses.add_parser("import", help="write the model file of a config.json")
    described.add_argument("config", metavar="CONFIG.json", help="the file, or a folder that holds a config.json")
    described.add_argument("--out", metavar="FILE.yaml", help="file to write (default: print it)")
    described.add_argument("--name", help="of the model (default: as the file says)")

    listing = commands.add_parser("list", help="what there is to choose from")
    listing.add_argument("kind", choices=KINDS, metavar="KIND", nargs="?", help=", ".join(KINDS))
    listing.add_argument("--json", action="store_true", help="print as JSON")

    show = commands.add_parser("show", help="one of these in full: a model, platform, trace …")
    show.add_argument("name", metavar="NAME", help="as listed, such as rtx_3060 or model/gpt_oss_20b, or a path")

    demo = commands.add_parser("demo", help="nine systems on a real trace, in a minute")
    demo.add_argument("--out", default="runs/demo", help="folder to write (default: runs/demo)")
    demo.add_argument("--requests", type=int, default=10, help="how many requests of the trace (default: 10)")
    return top


def claim_sets() -> list[str]:
    """Names of the shipped sets of published claims; their folders are looked at, no more, so that help is quick."""
    folder = Path(__file__).parent / "validation" / "claims"
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and any(path.glob("*.yaml")))


def _claims(checking: argparse.ArgumentParser) -> None:
    """The switches of `moesim validate` for published claims."""
    text = "only these claims, by the name of their file; may be repeated"
    checking.add_argument("--only", action="append", default=[], metavar="NAME", help=text)
    text = "where to write page, table and figures (default: runs/validation)"
    checking.add_argument("--out", default="runs/validation", metavar="FOLDER", help=text)
    text = "where finished runs are kept (default: runs/validation/runs/<name>)"
    checking.add_argument("--runs", metavar="FOLDER", help=text)
    checking.add_argument("--workers", type=int, metavar="N", help="processes (default: one a core; 0: this one alone)")
    text = "instead: fit the overhead of each framework, and write engines.yaml"
    checking.add_argument("--fit-engines", action="store_true", help=text)
    checking.add_argument("--pages", metavar="FOLDER", help="instead: write the pages of all systems; nothing is run")
    checking.add_argument("-q", "--quiet", action="store_true", help="print nothing but errors")


def local_parser() -> argparse.ArgumentParser:
    """The grammar of `moesim calibrate local`."""
    local = _Parser(
        prog="moesim calibrate local",
        description="Measure this machine and write it as a platform file, ready for platform=FILE.",
    )
    local.add_argument("--out", default="my_machine.yaml", metavar="FILE", help="(default: my_machine.yaml)")
    local.add_argument("--folder", default=".", metavar="FOLDER", help="on the drive to measure (default: this one)")
    text = "also run a small offloading loop, simulate it, and write both here as CSV"
    local.add_argument("--prove", metavar="FOLDER", help=text)
    local.add_argument("--repetitions", type=int, default=7, metavar="N", help="of every figure (default: 7)")
    local.add_argument("--threads", type=int, default=0, metavar="N", help="for products (default: all cores but one)")
    choices = ("auto", "torch", "numpy")
    local.add_argument("--backend", choices=choices, default="auto", help="for products (default: torch if installed)")
    local.add_argument("--quick", action="store_true", help="tiny sizes, to see that it works; the figures are poor")
    return local


def _complete(prefix: str, **_: object) -> list[str]:
    """What an override may go on with, for the shell: keys, and the choices of a group."""
    from experiments.compose import choices, known_keys

    groups = choices()
    key, equals, value = prefix.partition("=")
    if not equals:
        return [f"{name}=" for name in (*groups, *known_keys())]
    before = value[: value.rfind(",") + 1]
    return [f"{key}={before}{name}" for name in groups.get(key, ())]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    if "_ARGCOMPLETE" in os.environ:  # the shell asks how a line may go on
        import argcomplete

        argcomplete.autocomplete(parser())
    try:
        return _run(sys.argv[1:] if arguments is None else list(arguments))
    except KeyboardInterrupt:
        print("interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        sentence = _sentence(error)
        if sentence is None:
            raise  # a defect of ours: the traceback is what helps
        print(" ".join(sentence.split()), file=sys.stderr)
        return 2


def _sentence(error: Exception) -> str | None:
    """What is wrong in the input; None if the error is a defect of ours."""
    from experiments.explain import in_own_policy

    if (sentence := in_own_policy(error)) is not None:
        return sentence
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{(error.strerror or str(error)).rstrip('.').lower()}."
    if isinstance(error, ValueError | MemoryError):  # every error of the packages is a ValueError
        return str(error) or "out of memory."
    if type(error).__module__.partition(".")[0] in ("omegaconf", "hydra"):
        return f"{str(error).strip().splitlines()[0].rstrip('.')}."
    return None


def _run(arguments: list[str]) -> int:
    if arguments[:2] == ["calibrate", "local"]:
        from experiments.commands import calibrate_local

        return calibrate_local.main(local_parser().parse_args(arguments[2:]))
    options, rest = parser().parse_known_args(arguments)
    if options.command in ("run", "sweep", "search", "capacity", "propose", "figure"):
        behind = [item for item in rest if not item.startswith("-")]  # overrides behind a switch
        options.overrides = [*options.overrides, *behind]
        rest = [item for item in rest if item.startswith("-")]
    if rest:
        raise _UsageError(f"unknown argument '{rest[0]}'; see 'moesim {options.command} --help'.")
    module = importlib.import_module(f"experiments.commands.{options.command.replace('-', '_')}")
    code: int = module.main(options)
    return code


if __name__ == "__main__":
    sys.exit(main())
