"""docs/scale.md lists the statements that a PostgreSQL server must support: neither more nor fewer than the source has."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
HEADING = "## What a distributed PostgreSQL must support"
FEATURES = re.compile(
    r"\bpg_(?!catalog|dump)[a-z_]+(?=\()|(?<=FROM )pg_[a-z_]+|FOR UPDATE SKIP LOCKED|FOR UPDATE|FOR SHARE|LOCK TABLE"
    r"|(?<= IN )[A-Z ]+(?= MODE)|ISOLATION LEVEL [A-Z ]+?(?= READ ONLY|[\"'])|COLLATE \"C\"|WITH ORDINALITY|WITH RECURSIVE"
    r"|MATERIALIZED|LATERAL|ON CONFLICT|RETURNING|IS DISTINCT FROM|GENERATED ALWAYS AS IDENTITY|LANGUAGE plpgsql"
    r"|FOR EACH ROW|FOR EACH STATEMENT|BEFORE TRUNCATE|TSVECTOR|tsquery|USING gin|\bSHOW [a-z_]+"
    r"|\b(?:unnest|jsonb_array_elements|sha256|convert_to|convert_from|uuid_send|octet_length|split_part|strpos|setval"
    r"|hashtext|set_config|to_regclass|current_setting|current_schema|has_[a-z]+_privilege|obj_description|ts_rank)(?=\()"
    r"|(?<=SET LOCAL )[a-z_]+(?= [=T])|\bplan_cache_mode"
)
"""What goes beyond SQL that every server has."""


def source() -> str:
    files = [*(ROOT / "adapters/sql").rglob("*.py"), *(ROOT / "adapters/workers").glob("*engine.py")]
    return "\n".join(each.read_text(encoding="utf-8") for each in files if "sqlite" not in each.name)


def section() -> str:
    return (ROOT / "docs/scale.md").read_text(encoding="utf-8").partition(HEADING)[2]


def test_every_special_statement_of_the_source_is_in_the_list() -> None:
    used = {" ".join(found.split()) for found in FEATURES.findall(source())} - {"search_path"}
    assert len(used) > 40
    listed = section().casefold()
    assert [each for each in sorted(used) if each.casefold() not in listed] == []


def test_the_list_names_nothing_that_the_source_does_not_use() -> None:
    rows = [line.split("|")[1] for line in section().splitlines() if line.startswith("| ") and "`" in line]
    spans = [span for row in rows for span in re.findall(r"`([^`]+)`", row)]
    parts = [part.strip() for span in spans for part in span.split("…") if part.strip()]
    assert len(parts) > 40
    text = source().casefold()
    implied = {"read committed", "declare", "cursor", "listen", "notify", "do nothing"}  # of the driver, or the default
    assert [each for each in parts if each.casefold() not in text and each.casefold() not in implied] == []
