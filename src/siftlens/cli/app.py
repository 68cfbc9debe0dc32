"""The application: which commands there are, and what their exit codes mean.

0    done; images set aside are counted in the summary
1    not one image could be read
2    an argument, a file, a model or a setting is not what was expected
130  stopped by Ctrl-C; --resume goes on
"""

import os
from typing import Annotated

import typer

from siftlens import __version__
from siftlens.cli.analyze import analyze
from siftlens.cli.audit import audit
from siftlens.cli.compare import compare
from siftlens.cli.demo import demo
from siftlens.cli.export import export
from siftlens.cli.keypoints import keypoints
from siftlens.cli.pretrain import pretrain
from siftlens.cli.probe import probe
from siftlens.cli.prompt import prompt

app = typer.Typer(
    name="siftlens",
    help="Read a vision transformer's self-attention through SIFT keypoints.",
    epilog="Exit codes: 0 done, 1 no image could be read, 2 bad input, 130 stopped by Ctrl-C.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # a plain traceback is what a bug report needs
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(analyze)
app.command()(demo)
app.command()(audit)
app.command()(compare)
app.command()(export)
app.command()(keypoints)
app.command()(pretrain)
app.command()(probe)
app.command()(prompt)


def _print_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"siftlens {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point of the console script."""
    if "OMP_WAIT_POLICY" not in os.environ:
        # Read when PyTorch is imported, which no command has done yet: its idle threads wait for their next operation
        # on cores that detect, 20 ms each time. Half a millisecond is enough for the gaps between a model's operations.
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    app()
