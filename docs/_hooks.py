"""MkDocs hooks: write the tables of the run file and of the manifest from the models that check them.

And leave out of code blocks what only the tests of the documentation read.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

RUN_FILE_MARK = "<!-- the tables of the run file -->"
MANIFEST_MARK = "<!-- the tables of the manifest -->"
_NOT_RUN = re.compile(r'^( *```\w+) norun="[^"]*"$', re.MULTILINE)
"""The reason why a block is not run: an option that the extension does not know, so that it would see no block."""


def on_page_markdown(markdown: str, **_: object) -> str:
    """Replace the marks in a page by the tables, and keep of code blocks the options that are shown."""
    if RUN_FILE_MARK in markdown:
        from nagedge.training.run import run_json_schema

        markdown = markdown.replace(RUN_FILE_MARK, tables("The file", run_json_schema()))
    if MANIFEST_MARK in markdown:
        from nagedge.manifest import manifest_json_schema

        markdown = markdown.replace(MANIFEST_MARK, tables("Manifest", manifest_json_schema()))
    return _NOT_RUN.sub(r"\1", markdown)


def on_post_build(config: Any, **_: object) -> None:
    """Put the JSON Schemas beside the pages that describe them."""
    from nagedge.manifest import manifest_json_schema
    from nagedge.training.run import run_json_schema

    site = Path(config["site_dir"])
    (site / "manifest.schema.json").write_text(json.dumps(manifest_json_schema(), indent=2), encoding="utf-8")
    (site / "reference/run.schema.json").write_text(json.dumps(run_json_schema(), indent=2), encoding="utf-8")


def tables(name: str, schema: dict[str, Any]) -> str:
    """Return one Markdown section a table of a JSON Schema, the outermost first."""
    tables = {name: {**schema, "title": name}, **schema.get("$defs", {})}
    linked = {key for key, table in tables.items() if table.get("properties")}
    return "\n\n".join(_section(tables[key], linked) for key in tables if key in linked)


def _section(schema: dict[str, Any], linked: set[str]) -> str:
    required = set(schema.get("required", ()))
    description = (schema.get("description") or "").strip().partition("\n\n")[0].replace("\n", " ")
    lines = [
        f"## {schema['title']}",
        "",
        description,
        "",
        "| key | type | default | meaning |",
        "|---|---|---|---|",
    ]
    for key, value in schema["properties"].items():
        default = "required" if key in required else f"`{_toml(value.get('default'))}`"
        meaning = " ".join((value.get("description") or "").split()).replace("|", "\\|")
        lines.append(f"| `{key}` | {_type(value, linked)} | {default} | {meaning} |")
    return "\n".join(lines)


def _type(value: dict[str, Any], linked: set[str]) -> str:
    """Return a schema's type in words, references to other tables as links."""
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})" if name in linked else "any value"
    for key in ("anyOf", "oneOf", "allOf"):
        if key in value:
            return " or ".join(_type(option, linked) for option in value[key] if option.get("type") != "null")
    if "enum" in value:
        return ", ".join(f"`{option}`" for option in value["enum"])
    if "const" in value:
        return f"`{value['const']}`"
    if value.get("type") == "array":
        return f"array of {_type(value.get('items', {}), linked)}"
    if value.get("type") == "object" and isinstance(value.get("additionalProperties"), dict):
        return f"table of {_type(value['additionalProperties'], linked)}"
    return str(value.get("type", "any value"))


def _toml(value: object) -> str:
    """Return a default as it stands in TOML; an absent key is TOML's null."""
    if value is None:
        return "absent"
    if isinstance(value, bool):
        return "true" if value else "false"
    return f'"{value}"' if isinstance(value, str) else f"{value}"
