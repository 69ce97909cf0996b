"""`attnbench draw`: attention weights and positional encodings, as pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attnbench.cli.failures import EXIT_FAILED_CASE, terminable
from attnbench.cli.options import json_option, matrix_options
from attnbench.cli.output import clean, print_json
from attnbench.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from attnbench.cli.weights import Drawable, Weights

__all__ = ["draw"]

#: What a picture can be; without a choice it is written as each of them.
FORMATS = (".png", ".svg")


def _heads(context: click.Context, option: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """The numbers of heads in `0,1,5`, each once.

    Raises:
        click.BadParameter: they are none.
    """
    if value is None:
        return None
    try:
        heads = tuple(dict.fromkeys(int(part) for part in value.split(",")))
    except ValueError:
        heads = (-1,)
    if min(heads) < 0:
        raise click.BadParameter(
            f"expected numbers of heads from 0, such as 0,1,5; got {value!r}", context, option
        )
    return heads


def _picture_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Where a picture goes: -o, --force; and --json."""
    for option in (
        json_option,
        click.option("--force", is_flag=True, help="Overwrite pictures that exist."),
        click.option(
            "-o",
            "--out",
            metavar="PATH",
            type=click.Path(path_type=Path),
            help="A file that ends in .png or .svg, or a folder for both.  [default: both, in this folder]",
        ),
    ):
        command = option(command)
    return command


@click.group(short_help="Draw attention weights or positional encodings as pictures.")
def draw() -> None:
    """Draw attention weights or positional encodings as pictures, PNG and SVG.

    \b
    Examples:
      attnbench draw weights quick
      attnbench draw positions --length 100 --embed-dim 64
    """


@draw.command(short_help="Attention weights of a scenario's case, a heat map a head.")
@click.argument("scenario", metavar="SCENARIO")
@click.option(
    "--case",
    "case_text",
    metavar="ID",
    help="The case with this id, or the first that can run of those with this in their ids.  "
    "[default: the first that can run]",
)
@matrix_options
@click.option(
    "--element",
    metavar="N",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="The element of the batch, counted from 0.",
)
@click.option(
    "--heads", metavar="LIST", callback=_heads, help="These heads alone: 0,1,5.  [default: all, at most 32]"
)
@_picture_options
@click.pass_context
def weights(
    context: click.Context,
    scenario: str,
    case_text: str | None,
    devices: tuple[str, ...],
    implementations: tuple[str, ...],
    sets: tuple[str, ...],
    plugins: tuple[Path, ...],
    element: int,
    heads: tuple[int, ...] | None,
    out: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Draw the attention weights that the kernel of a case of SCENARIO uses: a heat map a head.

    The weights are the kernel's own, also where it never holds them in memory: given columns of the
    identity as values, it returns them. What the mask rules out is hatched; a weight there, which is a fault
    of the kernel, is red. Inputs are those of a sweep: random numbers, so the weights mean nothing, but show
    masks, scale and precision. Of a backward pass the weights are those of its forward pass.

    Exit 0 when the picture is written; 1 when no case can run here, or the one that does fails.

    \b
    Examples:
      attnbench draw weights quick
      attnbench draw weights masks --case 'document(8)' --heads 0,1 --set matrix.seq_len=64
      attnbench draw weights quick --plugin my_kernel.py --impl mine -o weights.svg
    """
    from attnbench.cli.preparation import Selection, Sources, prepare
    from attnbench.cli.weights import Asked, Failed, chosen, first_that_can

    selection = Selection((scenario,), devices, implementations, sets, plugins)
    with terminable(), Sources(selection.plugins) as sources:
        ((read, blocks),) = prepare(selection, sources)
        cases = chosen(read, [case for block in blocks for case in block.cases], case_text)
        targets = _targets(out, f"{read.name}-weights", overwrite=force)
        try:
            found = first_that_can(cases, Asked(element, heads), read, sources(read))
        except Failed as failed:
            if as_json:
                print_json(
                    {
                        "exit_code": EXIT_FAILED_CASE,
                        "exit_reason": f"{failed.status}: {failed.reason}",
                        "case_id": failed.case_id,
                        "pictures": [],
                    }
                )
            click.echo(f"Error: {clean(str(failed))}", err=True)
            context.exit(EXIT_FAILED_CASE)
    _write(_weights_figure(found), targets, overwrite=force)
    _answer(
        targets,
        as_json=as_json,
        case_id=found.of.asked.case_id,
        shape=list(found.weights.shape),
        element=found.of.element,
        heads=list(found.of.heads),
    )


@draw.command(short_help="The sinusoidal positional encoding, as a map and as waves.")
@click.option(
    "--length",
    metavar="N",
    type=click.IntRange(1, 10_000),
    default=64,
    show_default=True,
    help="Positions.",
)
@click.option(
    "--embed-dim",
    metavar="N",
    type=click.IntRange(1, 65536),
    default=128,
    show_default=True,
    help="Dimensions.",
)
@_picture_options
def positions(length: int, embed_dim: int, out: Path | None, force: bool, as_json: bool) -> None:
    """Draw the sinusoidal positional encoding (Vaswani et al. 2017, §3.5): a map of position × dimension,
    beside waves of single dimensions with their wavelengths, from 2π towards 10000·2π.

    \b
    Examples:
      attnbench draw positions
      attnbench draw positions --length 100 --embed-dim 64 -o positions.svg
    """
    targets = _targets(out, "positions", overwrite=force)
    from attnbench.plots.positions import sinusoidal_positions

    _write(sinusoidal_positions(length, embed_dim), targets, overwrite=force)
    _answer(targets, as_json=as_json, shape=[length, embed_dim])


# Pictures


def _targets(out: Path | None, name: str, *, overwrite: bool) -> list[Path]:
    """The files to write: the one that `out` is, or one of each format in the folder that it is.

    Raises:
        UsageError: another kind of file, or one that exists or cannot be written.
        OSError: the folder cannot be made.
    """
    from attnbench.export import require_free

    suffix = "" if out is None or out.is_dir() else out.suffix.lower()
    if out is not None and suffix in FORMATS:
        targets = [out]
    elif suffix:
        raise UsageError(f"-o {out}: a picture ends in {' or '.join(FORMATS)}, and a folder in neither")
    else:
        folder = out or Path()
        folder.mkdir(parents=True, exist_ok=True)
        targets = [folder / f"{name}{each}" for each in FORMATS]
    for target in targets:
        require_free(target, overwrite=overwrite)
    return targets


def _write(figure: Figure, targets: Sequence[Path], *, overwrite: bool) -> None:
    from attnbench.export import write
    from attnbench.plots.render import png_of, svg_of

    for target in targets:
        data = png_of(figure) if target.suffix.lower() == ".png" else svg_of(figure).encode()
        write(target, data, overwrite=overwrite)


def _answer(targets: Sequence[Path], *, as_json: bool, **facts: Any) -> None:
    if as_json:
        print_json(
            {"exit_code": 0, "exit_reason": "drawn", **facts, "pictures": [str(path) for path in targets]}
        )
        return
    for path in targets:
        click.echo(clean(str(path)))


def _weights_figure(found: Weights) -> Figure:
    from attnbench.plots.weights import attention_weights

    return attention_weights(
        found.weights,
        found.allowed,
        heads=found.of.heads,
        title=found.of.asked.case_id,
        notes=_notes(found.of, found.appended),
    )


def _notes(drawn: Drawable, appended: int) -> list[str]:
    """What the picture does not show, or shows differently from what might be thought."""
    shape: Any = drawn.case.workload.shape
    notes = []
    if len(drawn.heads) < shape.heads:
        notes.append(f"{len(drawn.heads)} of {shape.heads} heads.")
    if shape.batch > 1:
        notes.append(f"Element {drawn.element} of a batch of {shape.batch}.")
    if drawn.asked.workload.pass_ != "forward":
        notes.append("The weights are those of the forward pass.")
    if appended:
        notes.append(f"The last {appended} of the keys are appended ones, which no mask is over.")
    return [" ".join(notes)] if notes else []
