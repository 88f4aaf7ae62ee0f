"""The origin of an imported adapter in run.json: read back as it was written, and described in one phrase."""

from dataclasses import replace

from toolkit.runs.imported import ImportedAdapter

ORIGIN = ImportedAdapter("lora", None, {"a": "b"}, "base", "0.18.1", ("unsloth", "trl"), "2026-11-26T10:00:00+00:00")


def test_record_is_read_back() -> None:
    assert ImportedAdapter.from_record({"imported": ORIGIN.record()}) == ORIGIN
    assert ImportedAdapter.from_record({}) is None and ImportedAdapter.from_record({"imported": None}) is None


def test_description_names_tools_and_place() -> None:
    assert str(ORIGIN) == (
        "trained elsewhere with unsloth, trl, PEFT 0.18.1 and imported from the folder lora on 2026-11-26"
    )
    unknown = replace(ORIGIN, tools=(), peft_version=None, commit="abc", source="somebody/lora")
    assert str(unknown) == "trained elsewhere and imported from the Hub repository somebody/lora on 2026-11-26"
