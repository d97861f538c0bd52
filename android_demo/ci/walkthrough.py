"""Run the app's own code on a JVM, on stand-ins of the classes of Android that it uses, as a person would use it.

The stand-ins (ci/standins) read the app's layouts, strings and colours, and have as much of Android's behaviour as
these need. They are not Android: what is wrong in them and right there, or the other way round, is not seen.
"""

from __future__ import annotations

from pathlib import Path

from build import DEMO, classpath, run, runtime_options
from tools import Tools

__all__ = ["compile_standins", "launch_command", "walk_through"]

_RESOURCES = DEMO / "app" / "src" / "main" / "res"


def walk_through(tools: Tools, core: Path, out: Path, assets: Path, pictures: Path | None = None) -> str:
    """Return what was seen, a line each.

    Args:
        core: its jar; beside it lie those of :func:`apk.compile_app`, in ``out``.
        assets: with the bundle. pictures: a folder for pictures of the screen; None draws none, and needs no fonts.

    Raises:
        BuildError: something did not hold.
    """
    if not (out / "standins").exists():  # else another test process may just run them
        compile_standins(tools, core, out)
    options, environment = runtime_options(tools, out)
    command = [*_java(tools, core, out), "-Djava.awt.headless=true", *options, "standin.Walkthrough"]
    return run([*command, _RESOURCES, assets, out / "phone", pictures or "-"], env=environment)


def compile_standins(tools: Tools, core: Path, out: Path) -> None:
    """Compile the stand-ins into ``out``, against what :func:`apk.compile_app` left there."""
    classes = out / "standins"
    classes.mkdir(exist_ok=True)
    against = classpath(out / "android-stubs.jar", out / "app.jar", core, tools.kotlin_library)
    sources = sorted((DEMO / "ci" / "standins").rglob("*.java"))
    run(["javac", "-nowarn", "-Xlint:none", "-d", classes, "-cp", against, *sources])


def launch_command(tools: Tools, core: Path, out: Path, assets: Path) -> tuple[list[str], dict[str, str]]:
    """Return what starts the benchmark's activity as ``am start`` does, and its environment.

    A folder for its data, the file for what ``dumpsys activity`` would print, and the intent's extras are to be added;
    see ci/standins/standin/Launch.java.
    """
    options, environment = runtime_options(tools, out)
    command = [*_java(tools, core, out), *options, "standin.Launch", _RESOURCES, assets]
    return [str(word) for word in command], environment


def _java(tools: Tools, core: Path, out: Path) -> list[str | Path]:
    # What a stand-in has comes before its bare declaration.
    path = classpath(
        out / "standins",
        out / "android-stubs.jar",
        out / "app.jar",
        core,
        tools.kotlin_library,
        tools.ort_java,
    )
    return ["java", "-Xmx768m", "-XX:TieredStopAtLevel=1", "-cp", path]
