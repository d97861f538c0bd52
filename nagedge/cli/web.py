"""``nagedge web``: a bundle in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["command"]


def command(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of the bundle.")],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the page here, instead of serving it.")
    ] = None,
    port: Annotated[
        int,
        typer.Option(
            min=0, max=65535, help="To serve on; 0 takes a free one. What a browser keeps belongs to it."
        ),
    ] = 8420,
    target: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Whose files, instead of the first that trains on ONNX Runtime."),
    ] = None,
) -> None:
    """Serve or write one page on which the bundle predicts and learns in the browser; nothing leaves the machine."""
    import tempfile

    from nagedge import load
    from nagedge.cli.output import print_paths, progress_bar
    from nagedge.web.page import write_page
    from nagedge.web.server import serve

    loaded = load(bundle)
    if out is not None:
        with progress_bar() as progress:
            page = write_page(loaded, out, target=target, progress=progress)
        size = sum(file.stat().st_size for file in page.iterdir())
        typer.echo(
            f"{size / 1e6:.1f} MB; needs no server: open index.html, or copy the folder to any web server"
        )
        print_paths({"page": page / "index.html"})
        return
    with tempfile.TemporaryDirectory(prefix="nagedge-web-") as folder:
        with progress_bar() as progress:
            page = write_page(loaded, Path(folder) / "page", target=target, progress=progress)
        with serve(page, port) as (url, wait):
            typer.echo(f"{url}\nOn this machine only. Stop with Ctrl-C.")
            wait()
