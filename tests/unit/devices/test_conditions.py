"""What a device's answers say of heat, clock and battery; the texts are Android's own."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nagedge.devices.conditions import Conditions, parse_conditions, why_throttled

PHONE = """\
#zones
#clock
1197000
#limit
2253000
#highest
2802000
#battery
Current Battery Service state:
  AC powered: false
  USB powered: true
  Wireless powered: false
  Max charging current: 500000
  status: 2
  health: 2
  present: true
  level: 64
  scale: 100
  voltage: 4187
  temperature: 281
  technology: Li-ion
#thermal
IsStatusOverride: false
ThermalEventListeners:
	callbacks: 1
	killed: false
Thermal Status: 1
Cached temperatures:
	Temperature{mValue=99.0, mType=0, mName=CPU0, mStatus=3}
HAL Ready: true
HAL connection:
	ThermalHAL 2.0 connected: yes
Current temperatures from HAL:
	Temperature{mValue=62.500004, mType=0, mName=CPU0, mStatus=0}
	Temperature{mValue=61.000004, mType=1, mName=GPU, mStatus=0}
	Temperature{mValue=33.079998, mType=3, mName=VIRTUAL-SKIN, mStatus=1}
	Temperature{mValue=-5700.0, mType=-1, mName=virtual, mStatus=0}
	Temperature{mValue=4187.0, mType=6, mName=vbat, mStatus=0}
Current cooling devices from HAL:
	CoolingDevice{mValue=149.0, mType=2, mName=thermal-cpufreq-0}
"""
BOARD = """\
#zones
0
52582
-274000
48
#clock
1500000
#limit
1500000
#highest
1500000
#battery
#thermal
"""
QUIET = Conditions(clock_limit_mhz=2800.0, highest_clock_mhz=2802.0, thermal_status=0)


def test_a_phone_tells_the_current_values_and_not_the_cached() -> None:
    assert parse_conditions(PHONE) == Conditions(
        temperature_c=62.500004, clock_mhz=1197.0, clock_limit_mhz=2253.0, highest_clock_mhz=2802.0,
        battery_percent=64, battery_c=28.1, charging=True, thermal_status=1,
    )  # fmt: skip


def test_a_board_tells_its_sensors_and_those_that_are_not_fitted_do_not_count() -> None:
    assert parse_conditions(BOARD) == Conditions(
        temperature_c=52.582, clock_mhz=1500.0, clock_limit_mhz=1500.0, highest_clock_mhz=1500.0
    )


@pytest.mark.parametrize(
    "text", ["", "#zones\n#clock\n#limit\n#highest\n#battery\n#thermal\n", "#thermal\nnonsense"]
)
def test_a_device_that_tells_nothing_has_no_conditions(text: str) -> None:
    assert parse_conditions(text) == Conditions()
    assert why_throttled([parse_conditions(text)]) == ""


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, ""),
        ({"thermal_status": 2}, ""),
        ({"thermal_status": 3}, "Android's thermal status was 3"),
        ({"clock_mhz": 300.0}, ""),  # it has nothing to do just now
        ({"clock_limit_mhz": 2300.0}, ""),
        ({"clock_limit_mhz": 1400.0}, "the clock was held at 1400 of 2802 MHz"),
    ],
)
def test_status_and_limit_of_the_clock_tell_throttling(change: dict[str, float], reason: str) -> None:
    changed = replace(QUIET, **change)  # type: ignore[arg-type]
    assert why_throttled([QUIET, changed, QUIET]) == reason
