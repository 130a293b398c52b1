"""The options of `soloist embed`, a type each: how it is given, and what help says of it.

Other commands take some of them. What a command does with an option is not known here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from soloist.config import DEFAULT_MODELS
from soloist.formats import DEFAULT_FILE_PATTERNS
from soloist.fusion_methods import DEFAULT_FUSION, FUSIONS, NO_FUSION, fusion_choices
from soloist.languages import DEFAULT_LANGUAGE
from soloist.types import DTypeRequest, Isolation, MatmulRequest, Mode, OnBadInput, Packing, VectorDType

_MODE_HELP = """exclusive: one model at a time on all devices. standard: all models are on the devices together,
and take turns for each shard. The vectors are the same. [default: exclusive]"""
_FUSION_HELP = f"""How the models' vectors become one.
{" ".join(f"{name}: {method.help}." for name, method in FUSIONS.items())}
{NO_FUSION}: no fused vectors. Measured with MiniLM and WordLlama on seven retrieval sets: concat beat the better single
model on six of them at weights .7/.3 and on all seven at .85/.15; the plain mean at 256 dimensions lost on all seven.
[default: {DEFAULT_FUSION}]"""
_DIM_HELP = """Dimensions to keep of each model's vector before fusion. For a projection: the dimensions of the fused
vector."""
_DTYPE_HELP = """The dtype in which the models compute. auto-fast: like auto, but bfloat16 on a CPU that has
instructions for it; the loss of precision is measured and reported. [default: auto]"""
_VECTOR_DTYPE_HELP = """The dtype in which vectors are stored. float16 takes half the bytes; the cosine between a vector
and its stored form is above 1 - 1.3e-7. [default: float32]"""
_LANGUAGE_HELP = f"""How texts are split into words for bm25: the language of the texts, for its stop words and
endings. code: English, and identifiers such as getUserName are found by their parts too. none: the same without stop
words and endings.
[default: {DEFAULT_LANGUAGE}]"""
_SPARSE_TOP_HELP = """How many of its largest weights the sparse vector of a document keeps. 0: all. Questions keep all
of theirs. [default: 0]"""
_BUDGET_HELP = "Tokens in a batch, padding included. [default: as calibrated, else by the kind of device]"
_ACCELERATOR_HELP = "auto, cpu, cuda, cuda:0,1, simulated:2xT4 or simulated:2x15.83GB. [default: auto]"
_BAD_INPUT_HELP = """error: stop at the first faulty chunk or file. skip: leave it out, and list it in skipped.jsonl. A
text is faulty too if one of the models finds no tokens in it, or makes a zero vector of it; skip leaves it out for all
models. Empty texts and empty files are not faults: they are always left out, and listed there. [default: error]"""
_TIMEOUT_HELP = "Seconds to wait for devices that another process holds. [default: no limit]"
_LOCKS_HELP = "The folder of the devices' locks, the same for all processes that share them."
_CACHE_HELP = "The folder where runs keep what they measure for later plans. [default: the user's cache folder]"
_ISOLATION_HELP = """allocator: after a pass, this process keeps only its CUDA contexts on the devices. process: each
pass runs in its own process, so that the contexts are freed too. [default: allocator]"""
_PACKING_HELP = """Compute rows without padding, for models that allow it. auto: on the CPU only. on: on devices
too; this has not been measured on a GPU yet. off: never. [default: auto]"""
_MATMUL_HELP = """The library that multiplies on the CPU. torch: as torch chooses. onednn: with a network's weights
packed once. onednn+numpy: like onednn, and numpy's library multiplies in attention. auto: the library that the run
folder keeps, else the fastest one here. The last bits of vectors may differ between them. [default: auto]"""
_STOP_HELP = """Stop after a time: hours, minutes, seconds or several of them, e.g. 8h30m, 90m, 1.5h or 30s. The present
shard is finished first, and the exit code is 3. The same command continues the run. [default: never]"""
_REUSE_HELP = "Folders of other runs. Vectors that the same models made of the same texts are copied from there."
_CLUSTER_HELP = """Compute on the nodes of a Ray cluster, with the same bytes as on one machine. auto: the Ray cluster
that this machine belongs to. HOST:PORT: the cluster whose head has this address. local:N: N nodes on this machine,
which end with the command. All nodes must see --out under the same path. Needs the extra ray.
[default: this machine alone]"""
_MIXED_HELP = """Also use nodes whose cards (GPU or CPU type) differ from those of this machine. The last bits of a
vector then depend on the node that computed it."""
_DRY_HELP = """Show for each collection how many chunks are new, changed, gone or unchanged since the run in --out, and
how many texts each model would embed. Loads no model and writes nothing."""
_CONFIG_HELP = "A TOML file that sets these options, with their names in snake_case. The command line wins over it."


def choices(literal: Any) -> str:
    """The values of a Literal, as the help shows them."""
    return "|".join(get_args(literal))


ChunksRoot = Annotated[
    str | None,
    typer.Argument(
        metavar="CHUNKS", help="The folder with the collections of chunks. Needed, unless --config names it."
    ),
]
Out = Annotated[
    str | None,
    typer.Option(
        metavar="PATH", help="The run folder to write: a new one, or one to continue. Needed, unless --config names it."
    ),
]
Collections = Annotated[list[str] | None, typer.Option(metavar="A,B", help="Only these collections. [default: all]")]
Models = Annotated[
    list[str] | None,
    typer.Option(
        metavar="A,B",
        help="Catalogue names, folders or hub ids, in the order in which they run. bm25 is the words of the texts. "
        f"[default: {','.join(DEFAULT_MODELS)}]",
    ),
]
Weights = Annotated[
    list[str] | None,
    typer.Option(
        metavar="A=.7,B=.3",
        help="A weight for each model; 0 leaves a model out of the fused vector. "
        "[default: equal weights; beside words the first model has most]",
    ),
]
ModeChoice = Annotated[str | None, typer.Option(metavar=choices(Mode), help=_MODE_HELP)]
Fusion = Annotated[str | None, typer.Option(metavar="|".join(fusion_choices()), help=_FUSION_HELP)]
Dim = Annotated[int | None, typer.Option(metavar="NUMBER", help=_DIM_HELP)]
DType = Annotated[str | None, typer.Option(metavar=choices(DTypeRequest), help=_DTYPE_HELP)]
StoredDType = Annotated[str | None, typer.Option(metavar=choices(VectorDType), help=_VECTOR_DTYPE_HELP)]
Language = Annotated[str | None, typer.Option(metavar="NAME", help=_LANGUAGE_HELP)]
SparseTop = Annotated[int | None, typer.Option(metavar="NUMBER", help=_SPARSE_TOP_HELP)]
Accelerator = Annotated[str | None, typer.Option(envvar="SOLOIST_ACCELERATOR", metavar="KIND", help=_ACCELERATOR_HELP)]
TokenBudget = Annotated[int | None, typer.Option(metavar="NUMBER", help=_BUDGET_HELP)]
BadInput = Annotated[str | None, typer.Option(metavar=choices(OnBadInput), help=_BAD_INPUT_HELP)]
Config = Annotated[Path | None, typer.Option(metavar="PATH", help=_CONFIG_HELP)]
Catalogue = Annotated[
    str | None, typer.Option(envvar="SOLOIST_CATALOGUE", metavar="PATH", help="A TOML file with models of your own.")
]
TextField = Annotated[str | None, typer.Option(metavar="NAME", help="The field that holds the text. [default: text]")]
IdField = Annotated[
    str | None, typer.Option(metavar="NAME", help="The field that holds the id. [default: the usual names]")
]
FilePatterns = Annotated[
    list[str] | None,
    typer.Option(metavar="A,B", help=f"Names of chunk files. [default: {', '.join(DEFAULT_FILE_PATTERNS)}]"),
]
ShardChunks = Annotated[
    int | None,
    typer.Option(metavar="NUMBER", help="Chunks in a shard, which is read and written as a whole. [default: 4096]"),
]
LeaseTimeout = Annotated[float | None, typer.Option(metavar="NUMBER", help=_TIMEOUT_HELP)]
LockDir = Annotated[str | None, typer.Option(envvar="SOLOIST_LOCK_DIR", metavar="PATH", help=_LOCKS_HELP)]
CacheDir = Annotated[str | None, typer.Option(envvar="SOLOIST_CACHE_DIR", metavar="PATH", help=_CACHE_HELP)]
IsolationChoice = Annotated[str | None, typer.Option(metavar=choices(Isolation), help=_ISOLATION_HELP)]
PackingChoice = Annotated[str | None, typer.Option(metavar=choices(Packing), help=_PACKING_HELP)]
MatmulChoice = Annotated[str | None, typer.Option(metavar=choices(MatmulRequest), help=_MATMUL_HELP)]
StopAfter = Annotated[str | None, typer.Option(metavar="TIME", help=_STOP_HELP)]
Reuse = Annotated[list[str] | None, typer.Option(metavar="RUN,RUN", help=_REUSE_HELP)]
Cluster = Annotated[str | None, typer.Option(metavar="ADDRESS", help=_CLUSTER_HELP)]
MixedCards = Annotated[bool | None, typer.Option("--mixed-cards", help=_MIXED_HELP)]
DryRun = Annotated[bool, typer.Option("--dry-run", help=_DRY_HELP)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON: what run.json has or, with --dry-run, the changes.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
