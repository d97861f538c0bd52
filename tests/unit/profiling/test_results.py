from __future__ import annotations

import dataclasses
import json

import jsonschema  # type: ignore[import-untyped]
import pytest

from nagedge.errors import DataError
from nagedge.profiling.results import Profile, profile_schema


def test_a_profile_survives_its_json(known_profile: Profile) -> None:
    assert Profile.from_json(known_profile.to_json()) == known_profile


def test_the_json_fits_its_schema(known_profile: Profile) -> None:
    schema = profile_schema()
    document = json.loads(known_profile.to_json())
    jsonschema.Draft202012Validator(schema).validate(document)
    document["workloads"][0]["latency"]["first_ms"] = "ninety"
    assert not jsonschema.Draft202012Validator(schema).is_valid(document)


def test_every_group_of_figures_names_its_evidence(known_profile: Profile) -> None:
    for workload in json.loads(known_profile.to_json())["workloads"]:
        assert workload["evidence"] == "measured-host"
        assert workload["latency"]["evidence"] == "measured-host"
        assert workload["memory"]["evidence"] == "measured-host"


def test_a_profile_from_before_the_timeline_is_read(known_profile: Profile) -> None:
    document = json.loads(known_profile.to_json())
    for workload in document["workloads"]:
        del workload["memory"]["timeline"]
    read = Profile.from_json(json.dumps(document))
    memory = read.workloads[0].memory
    assert memory is not None
    assert memory.timeline is None
    assert memory.step_bytes == 3 << 20


def test_an_unsupported_quantile_is_null(known_profile: Profile) -> None:
    latency = json.loads(known_profile.to_json())["workloads"][1]["latency"]
    p99 = latency["quantiles"][2]
    assert (p99["probability"], p99["value"], p99["samples_needed"]) == (0.99, None, 368)


def test_a_workload_is_found_by_name(known_profile: Profile) -> None:
    assert known_profile.workload("train").latency.steady_calls == 120
    with pytest.raises(KeyError):
        known_profile.workload("verify")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema_version": 99}', "{"])
def test_something_else_is_refused(text: str) -> None:
    with pytest.raises(
        DataError, match=r"schema_version is .*, expected 2\. Give the file that 'nagedge profile"
    ):
        Profile.from_json(text)


def test_a_changed_profile_is_refused_with_the_field(known_profile: Profile) -> None:
    document = dataclasses.asdict(known_profile)
    document["host"]["logical_cores"] = "many"
    with pytest.raises(DataError, match=r"field 'host\.logical_cores': .* valid integer"):
        Profile.from_json(json.dumps(document))
