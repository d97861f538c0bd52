"""MkDocs hook: write the tables of the run file from the model that checks it."""

from __future__ import annotations

from typing import Any

MARK = "<!-- the tables of the run file -->"


def on_page_markdown(markdown: str, **_: object) -> str:
    """Replace :data:`MARK` in a page by the tables."""
    return markdown.replace(MARK, run_file_tables()) if MARK in markdown else markdown


def run_file_tables() -> str:
    """Return one Markdown section a table of the run file, from its JSON Schema."""
    from nagedge.training.run import run_json_schema

    schema = run_json_schema()
    definitions = schema.get("$defs", {})
    sections = [_section("The file", schema)]
    sections += [_section(name, definition) for name, definition in definitions.items()]
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
