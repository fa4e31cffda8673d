"""The ``lossref`` command. Whatever is heavy is imported inside the command that needs it."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="lossref",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with: [bold]lossref list[/], [bold]lossref show cross_entropy[/], [bold]lossref doctor[/].",
)


def _version(wanted: bool) -> None:
    if wanted:
        from lossref import __version__

        typer.echo(f"lossref {__version__}")
        raise typer.Exit


@app.callback()
def lossref(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """The reference for loss functions: read them, run them, prove them."""


@app.command("list")
def list_losses(
    family: Annotated[str | None, typer.Option(help="Only this family.")] = None,
    json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """The losses: name, family, paths, what each is, where it comes from."""
    from .catalogue import print_list

    print_list(family, json)


@app.command()
def show(name: Annotated[str, typer.Argument(help="The name of a loss, as `lossref list` shows it.")]) -> None:
    """One loss: formula, arguments, result, paper, symmetries, gradient, source."""
    from .catalogue import print_loss

    print_loss(name)


@app.command()
def doctor(json: Annotated[bool, typer.Option("--json", help="For machines.")] = False) -> None:
    """Which paths work on this machine, and what to do about those that do not."""
    from .examination import print_examination

    print_examination(json)


@app.command()
def verify(
    loss: Annotated[list[str] | None, typer.Option(help="Only this loss; may be repeated.")] = None,
    family: Annotated[list[str] | None, typer.Option(help="Only this family; may be repeated.")] = None,
    path: Annotated[list[str] | None, typer.Option(help="Only this path: numpy, numba, cuda; may be repeated.")] = None,
    dtype: Annotated[list[str] | None, typer.Option(help="Only this dtype, such as float32; may be repeated.")] = None,
    json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help='Write the results to FILE; "-" is standard output.')
    ] = None,
    seed: Annotated[int, typer.Option(help="The seed of the random inputs and cotangents.")] = 0,
) -> None:
    """Compare value and gradient of the losses with exact arithmetic, on real data and on hard inputs.

    Errors are in units of the yardstick: how far the answer moves when every input, and the answer itself, moves by
    one rounding. The exit status is 1 if any check fails. Without a GPU the CUDA path runs in Numba's simulator.
    """
    from .checking import verify_losses

    raise typer.Exit(verify_losses(loss, family, path, dtype, json, seed))


@app.command()
def bench(
    kernel: Annotated[
        list[str] | None,
        typer.Option(
            help="logsumexp, softmax, log_softmax, cross_entropy, linear_cross_entropy, top_k_softmax, "
            "softmax_attention; may be repeated."
        ),
    ] = None,
    path: Annotated[list[str] | None, typer.Option(help="Only this path: numpy, numba, cuda; may be repeated.")] = None,
    size: Annotated[
        list[str] | None,
        typer.Option(
            help="For one kernel: ROWSxCLASSES, or ROWSxFEATURESxCLASSES (linear; attention: classes are keys); "
            "may be repeated."
        ),
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32 or float64.")] = "float32",
    threads: Annotated[int | None, typer.Option(help="For every library alike [default: all cores].")] = None,
    peer: Annotated[
        list[str] | None, typer.Option(help="Only this peer: torch, jax, scipy, or none; may be repeated.")
    ] = None,
    allocator: Annotated[
        str, typer.Option(help="Freed pages go back to the system (shipped), are kept (kept), or both.")
    ] = "both",
    seconds: Annotated[
        float | None, typer.Option(help="Roughly how long each contender is measured on each problem [default: 2].")
    ] = None,
    wait: Annotated[
        float, typer.Option(help="Wait so many seconds in all for the machine to be quiet; repeat disturbed samples.")
    ] = 0.0,
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes, few samples: below half a minute.")] = False,
    json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help='Write the results to FILE; "-" is standard output.')
    ] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the roofline (SVG, PNG, PDF).")] = None,
) -> None:
    """Time the paths against the limits of this machine and against PyTorch, JAX and SciPy where installed.

    Contenders take turns in one process, with the same threads. Time, GB/s, share of what a plain copy (read, product)
    of the same arrays reaches, ratio to each peer; peak memory; and the bars that the kernels have to reach.
    """
    from .measuring import bench_paths

    raise typer.Exit(bench_paths(kernel, path, size, dtype, threads, peer, allocator, seconds, wait, quick, json, plot))


@app.command()
def compare(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Losses; without one: what can be compared.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that can be compared.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown, as in the documentation.")] = False,
    json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help='Write the results to FILE; "-" is standard output.')
    ] = None,
    seed: Annotated[int, typer.Option(help="The seed of the random inputs and cotangents.")] = 0,
) -> None:
    """PyTorch's, optax's, Keras', ONNX's and scikit-learn's versions of a loss: what they mean, how accurate they are.

    Semantics are found out by calling them, and accuracy is judged against exact arithmetic, ours with theirs.
    """
    from .compare import compare_losses

    raise typer.Exit(compare_losses(names, everything, markdown, json, seed))


@app.command()
def survey(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Losses.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that any library defines.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown, as in the documentation.")] = False,
    json: Annotated[
        Path | None,
        typer.Option(
            "--json",
            metavar="FILE",
            help='Write the results to FILE; "-" is standard output. With names, what FILE has on other losses stays.',
        ),
    ] = None,
    source: Annotated[
        Path | None, typer.Option("--from", metavar="FILE", help="Judge nothing; show the results in FILE.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer sizes, no pairs of options.")] = False,
    jobs: Annotated[int, typer.Option(min=1, help="How many processes.")] = 2,
    seed: Annotated[int, typer.Option(help="Another seed draws other random inputs.")] = 0,
) -> None:
    """Judge PyTorch's, optax's, Keras', ONNX's, scikit-learn's and SciPy's losses: what `lossref check` says of each.

    A verdict for each implementation and dtype, and for each finding the smallest input, what came and what should
    have come; what the library's own documentation announces is called a choice, all else a defect.
    """
    from .survey import survey_losses

    raise typer.Exit(survey_losses(names, everything, markdown, json, source, quick, jobs, seed))


@app.command()
def check(
    target: Annotated[
        str, typer.Argument(help="module:function or file.py:function; for a process, its command line.")
    ],
    loss: Annotated[str, typer.Option(help="The loss that it is meant to be.")],
    grad: Annotated[str | None, typer.Option(help="Its gradient function, where the framework derives none.")] = None,
    framework: Annotated[str, typer.Option(help="numpy, torch, jax, tensorflow, mlx, cupy or process.")] = "numpy",
    dtype: Annotated[
        list[str] | None, typer.Option(help="float64, float32, float16, bfloat16; may be repeated [default: float64].")
    ] = None,
    kwargs: Annotated[str | None, typer.Option(help="Options that are fixed, as a JSON object.")] = None,
    json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help='Write the report to FILE; "-" is standard output.')
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write the report with plots to FILE.")
    ] = None,
    xfails: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Findings that are expected: one part of an id on a line.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed draws other random inputs.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="A few seconds: fewer sizes, no pairs of options.")] = False,
    gradient: Annotated[bool, typer.Option(help="For a process: whether it answers gradients.")] = True,
    option: Annotated[
        list[str] | None, typer.Option(help="For a process: an option that it takes; may be repeated.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="For torch: where its tensors are, such as cuda.")] = None,
    jit: Annotated[bool, typer.Option("--jit", help="For jax: under jax.jit.")] = False,
) -> None:
    """Judge somebody's implementation of a loss: accurate, inaccurate or wrong, where, and probably why.

    The exit status is 0 if it is accurate, 1 if it is not, 2 if the command line is wrong.
    """
    from .check import check_candidate

    raise typer.Exit(
        check_candidate(
            target, loss, grad, framework, dtype, kwargs, json, html, xfails, seed, quick, gradient, option, device, jit
        )
    )


vectors = typer.Typer(no_args_is_help=True, help="Test vectors for other languages.")
app.add_typer(vectors, name="vectors")


@vectors.command("export")
def export(
    folder: Annotated[Path, typer.Argument(help="Where the files go.")],
    loss: Annotated[list[str] | None, typer.Option(help="Only this loss; may be repeated.")] = None,
    seed: Annotated[int, typer.Option(help="Another seed draws other random inputs.")] = 0,
) -> None:
    """Write inputs, exact values and gradients with proven error bounds: one JSON-lines file a loss."""
    from .vectors import export_vectors

    raise typer.Exit(export_vectors(folder, loss, seed))
