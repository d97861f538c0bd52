"""MkDocs hooks: write the tables of the run file and of the manifest from the models that check them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RUN_FILE_MARK = "<!-- the tables of the run file -->"
MANIFEST_MARK = "<!-- the tables of the manifest -->"


def on_page_markdown(markdown: str, **_: object) -> str:
    """Replace the marks in a page by the tables."""
    if RUN_FILE_MARK in markdown:
        from nagedge.training.run import run_json_schema

        markdown = markdown.replace(RUN_FILE_MARK, tables("The file", run_json_schema()))
    if MANIFEST_MARK in markdown:
        from nagedge.manifest import manifest_json_schema

        markdown = markdown.replace(MANIFEST_MARK, tables("Manifest", manifest_json_schema()))
    return markdown


def on_post_build(config: Any, **_: object) -> None:
    """Put the JSON Schemas beside the pages that describe them."""
    from nagedge.manifest import manifest_json_schema
    from nagedge.training.run import run_json_schema

    site = Path(config["site_dir"])
    (site / "manifest.schema.json").write_text(json.dumps(manifest_json_schema(), indent=2), encoding="utf-8")
    (site / "reference/run.schema.json").write_text(json.dumps(run_json_schema(), indent=2), encoding="utf-8")


def tables(name: str, schema: dict[str, Any]) -> str:
    """Return one Markdown section a table of a JSON Schema, the outermost first."""
    definitions = schema.get("$defs", {})
    sections = [_section(name, {**schema, "title": name})]
    sections += [_section(key, definition) for key, definition in definitions.items()]
    return "\n\n".join(section for section in sections if section)


def _section(name: str, schema: dict[str, Any]) -> str:
    properties = schema.get("properties")
    if not properties:
        return ""
    required = set(schema.get("required", ()))
    description = (schema.get("description") or "").strip().partition("\n\n")[0].replace("\n", " ")
    lines = [
        f"## {schema.get('title', name)}",
        "",
        description,
        "",
        "| key | type | default | meaning |",
        "|---|---|---|---|",
    ]
    for key, value in properties.items():
        default = "required" if key in required else f"`{_toml(value.get('default'))}`"
        meaning = " ".join((value.get("description") or "").split()).replace("|", "\\|")
        lines.append(f"| `{key}` | {_type(value)} | {default} | {meaning} |")
    return "\n".join(lines)


def _type(value: dict[str, Any]) -> str:
    """Return a schema's type in words, references as links."""
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for key in ("anyOf", "oneOf", "allOf"):
        if key in value:
            return " or ".join(_type(option) for option in value[key] if option.get("type") != "null")
    if "enum" in value:
        return ", ".join(f"`{option}`" for option in value["enum"])
    if "const" in value:
        return f"`{value['const']}`"
    if value.get("type") == "array":
        return f"array of {_type(value.get('items', {}))}"
    if value.get("type") == "object" and isinstance(value.get("additionalProperties"), dict):
        return f"table of {_type(value['additionalProperties'])}"
    return str(value.get("type", "any value"))


def _toml(value: object) -> str:
    """Return a default as it stands in TOML; an absent key is TOML's null."""
    if value is None:
        return "absent"
    if isinstance(value, bool):
        return "true" if value else "false"
    return f'"{value}"' if isinstance(value, str) else f"{value}"
