"""Run the app's own code on a JVM, on stand-ins of the classes of Android that it uses, as a person would use it.

The stand-ins (ci/standins) read the app's layouts, strings and colours, and have as much of Android's behaviour as
these need. They are not Android: what is wrong in them and right there, or the other way round, is not seen.
"""

from __future__ import annotations

from pathlib import Path

from build import DEMO, classpath, run, runtime_options
from tools import Tools

__all__ = ["walk_through"]


def walk_through(tools: Tools, core: Path, out: Path, assets: Path, pictures: Path | None = None) -> str:
    """Return what was seen, a line each.

    Args:
        core: its jar; beside it lie those of :func:`apk.compile_app`, in ``out``.
        assets: with the bundle. pictures: a folder for pictures of the screen; None draws none, and needs no fonts.

    Raises:
        BuildError: something did not hold.
    """
    classes = out / "standins"
    classes.mkdir(exist_ok=True)
    against = classpath(out / "android-stubs.jar", out / "app.jar", core, tools.kotlin_library)
    sources = sorted((DEMO / "ci" / "standins").rglob("*.java"))
    run(["javac", "-nowarn", "-Xlint:none", "-d", classes, "-cp", against, *sources])
    data = out / "phone"
    options, environment = runtime_options(tools, out)
    # What a stand-in has comes before its bare declaration.
    path = classpath(
        classes, out / "android-stubs.jar", out / "app.jar", core, tools.kotlin_library, tools.ort_java
    )
    command = ["java", "-Xmx768m", "-Djava.awt.headless=true", *options, "-cp", path, "standin.Walkthrough"]
    resources = DEMO / "app" / "src" / "main" / "res"
    return run([*command, resources, assets, data, pictures or "-"], env=environment)
