"""Build the app without Gradle: ``python android_demo/ci apk --assets DIR --out app.apk``."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from apk import assemble, compile_app
from build import DEMO, BuildError, compile_core
from tools import ToolsUnavailableError, fetch_tools
from verify import alignment_problems, api_report, permissions, signatures
from walkthrough import walk_through


def main() -> int:
    """Run one command and return the exit code."""
    parser = argparse.ArgumentParser(prog="python android_demo/ci", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    apk = commands.add_parser("apk", help="assemble, sign and verify the app")
    apk.add_argument("--assets", type=Path, help="a folder that nagedge export --android-assets filled")
    apk.add_argument("--out", type=Path, default=Path("app.apk"))
    pictures = commands.add_parser("pictures", help="draw the screens, on stand-ins of Android's classes")
    pictures.add_argument("--assets", type=Path, required=True)
    pictures.add_argument("--out", type=Path, default=Path())
    golden = commands.add_parser("golden", help="write what the tests of core compare with; needs NagEdge")
    golden.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    try:
        if arguments.command == "golden":
            _golden(arguments.folder)
        elif arguments.command == "pictures":
            _pictures(arguments.assets, arguments.out)
        else:
            _apk(arguments.assets, arguments.out)
    except (BuildError, ToolsUnavailableError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def _apk(assets: Path | None, out: Path) -> None:
    tools = fetch_tools()
    with tempfile.TemporaryDirectory(prefix="nagedge-apk-") as name:
        folder = Path(name)
        core = compile_core(tools, folder)
        built = assemble(tools, core, compile_app(tools, core, folder, assets), folder)
        schemes = [scheme for scheme, verified in signatures(tools, built).items() if verified]
        wrong = [*alignment_problems(built), *api_report(tools, built).problems, *permissions(tools, built)]
        if wrong:
            raise BuildError("the APK is not right: " + "; ".join(wrong))
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(built, out)
    what = "no bundle" if assets is None else "its bundle"
    sys.stdout.write(f"{out}: {out.stat().st_size / 1e6:.1f} MB with {what}, signed ({', '.join(schemes)})\n")


def _pictures(assets: Path, out: Path) -> None:
    tools = fetch_tools()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="nagedge-pictures-") as name:
        folder = Path(name)
        core = compile_core(tools, folder)
        compile_app(tools, core, folder, assets)
        walk_through(tools, core, folder, assets, out.absolute())
    sys.stdout.write("".join(f"{path}\n" for path in sorted(out.glob("*.png"))))


def _golden(folder: Path) -> None:
    sys.path.insert(0, str(DEMO.parent / "tests" / "integration"))
    from android_golden import write_golden

    write_golden(folder)


if __name__ == "__main__":
    sys.exit(main())
