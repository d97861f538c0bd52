"""``nagedge devices``: what bundles can be profiled on."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["app"]

app = typer.Typer(
    help="List devices, set up the arm64 emulator, print device profiles.", no_args_is_help=True
)


@app.command("ls")
def list_all() -> None:
    """List devices with what each can do, and the device profiles that latencies are modelled of."""
    from nagedge.cli.output import print_table
    from nagedge.devices.catalogue import list_devices
    from nagedge.devices.device_profiles import available_device_profiles, load_device_profile

    rows = [[one.name, one.description, one.evidence, one.runtimes, one.state] for one in list_devices()]
    print_table("Devices", ("device", "what it is", "figures", "runtimes", "state"), rows)
    sheets = [load_device_profile(name) for name in available_device_profiles()]
    print_table(
        "Device profiles (evidence: modelled)",
        ("profile", "device", "counted on", "clock_mhz"),
        [[sheet.name, sheet.title, f"emulated:{sheet.core}", sheet.clock_mhz] for sheet in sheets],
    )


@app.command("cat")
def print_profile(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A profile of `nagedge devices ls`.")],
) -> None:
    """Print a device profile's file."""
    from nagedge.devices.device_profiles import device_profile_file

    typer.echo(device_profile_file(name).read_text(encoding="utf-8"), nl=False)


@app.command("setup")
def set_up(
    what: Annotated[str, typer.Argument(metavar="WHAT", help="What to set up: arm64 or arm64-system.")],
    mirror: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="A Debian archive, instead of the one that apt uses."),
    ] = None,
    anew: Annotated[bool, typer.Option("--anew", help="Make every part again.")] = False,
) -> None:
    """Make or repair an emulator in the user's cache; what is complete is kept."""
    import time

    from nagedge.cli.output import print_table, progress_bar
    from nagedge.devices import arm64, arm64_system
    from nagedge.errors import ConfigurationError

    if what not in ("arm64", "arm64-system"):
        raise ConfigurationError(f"cannot set up {what!r}; expected arm64 or arm64-system.")
    started = time.monotonic()
    with progress_bar() as progress:
        if what == "arm64":
            folder, states = arm64.setup(progress, mirror=mirror, anew=anew).folder, arm64.states()
        else:
            folder = arm64_system.setup(progress, mirror=mirror, anew=anew).folder
            states = arm64_system.states()
    kept = arm64.Installation(arm64.home()).versions() if what == "arm64" else None
    rows = [
        [
            state.name,
            state.size_bytes / 1e6,
            ", ".join(f"{k} {v}" for k, v in state.versions.items() if kept is None or k in kept),
        ]
        for state in states
    ]
    total = sum(state.size_bytes for state in states) / 1e6
    print_table(f"The {what} emulator in {folder}", ("part", "MB", "holds"), [*rows, ["in all", total, ""]])
    typer.echo(f"ready after {time.monotonic() - started:.0f} s")
