"""Android's commands on the test device of adb_device.py: ``am``, ``pm``, ``dumpsys``, and cores of two kinds.

``am start`` really runs the app's benchmark: its activity, compiled as for the APK, on the stand-ins of Android's
classes, with ``core`` and ONNX Runtime on this machine's JVM. So what comes back is what the real code writes. The rest
prints what Android prints (its ActivityManagerShellCommand, ActivityTaskManagerService.dumpActivity, BatteryService and
ThermalManagerService).
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["AndroidCommands", "two_kinds_of_cores"]

_AM = """\
import json, os, pathlib, signal, subprocess, sys
config = json.loads(pathlib.Path({config!r}).read_text())
folder = pathlib.Path(config["folder"])
arguments, pid = sys.argv[1:], folder / "pid"
(folder / "am").open("a").write(" ".join(arguments) + "\\n")
assert arguments[0] == "start", arguments
component, extras, index = "", [], 1
while index < len(arguments):
    word = arguments[index]
    if word == "-n":
        component, index = arguments[index + 1], index + 1
    elif word in ("--es", "--ei"):
        extras.append(word[3] + ":" + arguments[index + 1] + "=" + arguments[index + 2])
        index += 2
    elif word == "-S":
        print("Stopping: dev.nagedge.demo")
        if pid.exists():
            try:
                os.kill(int(pid.read_text()), signal.SIGKILL)
            except ProcessLookupError:
                pass
    index += 1
print("Starting: Intent {{ cmp=" + component + " (has extras) }}")
if component not in config["components"]:
    print("Error type 3\\nError: Activity class {{" + component + "}} does not exist.")
    sys.exit(0)  # as Android 7 does
(folder / "dump").unlink(missing_ok=True)
command = [*config["java"], str(folder / "data"), str(folder / "dump"), *extras]
with (folder / "log").open("a") as log:
    child = subprocess.Popen(
        command, env=config["environment"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
    )
pid.write_text(str(child.pid))
print("Status: ok\\nLaunchState: COLD\\nActivity: " + component + "\\nTotalTime: 412\\nWaitTime: 420\\nComplete")
"""

_DUMPSYS = """\
#!/bin/sh
cd {folder}
case "$1" in
  battery) cat battery ;;
  thermalservice) cat thermalservice ;;
  activity)
    if [ -f dump ] && {{ kill -0 "$(cat pid)" 2>/dev/null || grep -qE 'state=(done|failed)' dump; }}; then
      echo "TASK 10145:dev.nagedge.demo id=57 userId=0"
      echo "  ACTIVITY $2 5c9d1b0 pid=$(cat pid)"
      cat dump
    else
      echo "Bad activity command, or no activities match: $2"
      echo "Use -h for help."
    fi ;;
esac
"""

_BATTERY = """\
Current Battery Service state:
  AC powered: false
  USB powered: true
  Wireless powered: false
  Max charging current: 500000
  status: 2
  health: 2
  present: true
  level: {percent}
  scale: 100
  voltage: 4187
  temperature: 281
  technology: Li-ion
"""

_THERMAL = """\
IsStatusOverride: false
ThermalEventListeners:
	callbacks: 1
Thermal Status: {status}
Cached temperatures:
	Temperature{{mValue=99.0, mType=0, mName=CPU0, mStatus=0}}
HAL Ready: true
HAL connection:
	ThermalHAL 2.0 connected: yes
Current temperatures from HAL:
	Temperature{{mValue={heat}, mType=3, mName=skin, mStatus={status}}}
	Temperature{{mValue=-5700.0, mType=6, mName=bcl, mStatus=0}}
Current cooling devices from HAL:
	CoolingDevice{{mValue=0, mType=2, mName=tpu}}
"""


class AndroidCommands:
    """The commands, as programs in a folder for the device's PATH.

    Args:
        folder: for the programs and what they keep.
        java: what starts the benchmark, up to the folder of its data; None when the app is not installed.
        environment: for ``java``.
    """

    def __init__(self, folder: Path, java: Sequence[str] | None, environment: Mapping[str, str]) -> None:
        self.folder, self.programs = folder, folder / "bin"
        self.programs.mkdir(parents=True)
        config = folder / "am.json"
        components = ["dev.nagedge.demo/.BenchmarkActivity"] if java else []
        config.write_text(
            json.dumps({
                "folder": str(folder), "java": list(java or ()), "environment": dict(environment),
                "components": components,
            })
        )  # fmt: skip
        (folder / "am.py").write_text(_AM.format(config=str(config)))
        self._program("am", f'#!/bin/sh\nexec {sys.executable} -I {folder}/am.py "$@"\n')
        installed = 'echo "package:/data/app/dev.nagedge.demo-1/base.apk"' if java else "exit 1"
        self._program("pm", f'#!/bin/sh\n[ "$1 $2" = "path dev.nagedge.demo" ] && {installed}\n')
        self._program("dumpsys", _DUMPSYS.format(folder=folder))
        self.weather()

    def weather(self, *, status: int = 0, heat: float = 31.6, percent: int = 77) -> None:
        """Set thermal status, temperature and charge."""
        (self.folder / "thermalservice").write_text(_THERMAL.format(status=status, heat=heat))
        (self.folder / "battery").write_text(_BATTERY.format(percent=percent))

    def started(self) -> list[str]:
        """Return how ``am`` was called."""
        log = self.folder / "am"
        return log.read_text().splitlines() if log.exists() else []

    def kill(self) -> None:
        """End the app, as the system does when memory is short."""
        pid = self.folder / "pid"
        if pid.exists():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid.read_text()), 9)

    def _program(self, name: str, text: str) -> None:
        (self.programs / name).write_text(text)
        (self.programs / name).chmod(0o755)


def two_kinds_of_cores(device: Path) -> tuple[int, int]:
    """Give a device a slow and a fast core, of those that this process may use, and return their numbers."""
    usable = sorted(os.sched_getaffinity(0))
    slow, fast = usable[0], usable[-1]
    for core, capacity, limit in ((slow, 250, 1800000), (fast, 1024, 2800000)):
        folder = device / f"sys/devices/system/cpu/cpu{core}"
        (folder / "cpufreq").mkdir(parents=True, exist_ok=True)
        (folder / "cpu_capacity").write_text(f"{capacity}\n")
        for name in ("scaling_cur_freq", "scaling_max_freq", "cpuinfo_max_freq"):
            (folder / "cpufreq" / name).write_text(f"{limit}\n")
    (device / "sys/class/thermal").mkdir(parents=True)
    return slow, fast
