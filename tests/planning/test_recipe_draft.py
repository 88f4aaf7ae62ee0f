"""Drafts of recipes: names of inputs, lengths and texts that YAML reads back unchanged."""

import json
from pathlib import Path

from toolkit.data.column_roles import ColumnRoles, LabelValues
from toolkit.planning.recipe_draft import DraftSources, draft_recipe, name_inputs, read_max_positions
from toolkit.recipe.loading import build_recipe, parse_recipe
from toolkit.recipe.schema import Recipe


def draft(
    *columns: str, labels: tuple[str, ...] = ("oui", "non"), longest: int = 100, positions: int | None = None
) -> str:
    roles = ColumnRoles(columns, "label", LabelValues(dict.fromkeys(labels, 5), {}, 0))
    sources = DraftSources("rows.csv", {}, None, 0.2, "embedded:tiny-llama-fr", positions, "rows.yaml")
    return draft_recipe(roles, sources, "en", longest)


def load(text: str) -> Recipe:
    return build_recipe(parse_recipe(text, "draft"), "draft")


def test_inputs_have_valid_distinct_names() -> None:
    assert name_inputs(["Avis du client"]) == {"text": "Avis du client"}
    assert list(name_inputs(["Réponse", "réponse", "answer", "1st"])) == [
        "reponse",
        "reponse_",
        "text_answer",
        "text_1st",
    ]
    assert list(name_inputs(["hypothesis", "premise"])) == ["premise", "hypothesis"]
    assert list(name_inputs(["文", "class"])) == ["text", "class"]


def test_length_follows_the_longest_row() -> None:
    assert load(draft("a")).model.max_seq_length == 256
    assert load(draft("a", longest=2000)).model.max_seq_length == 768
    assert load(draft("a", longest=10**6)).model.max_seq_length == 2048
    assert load(draft("a", longest=10**6, positions=512)).model.max_seq_length == 512


def test_labels_survive_the_draft() -> None:
    """Labels that differ only in case are marked; long lists and characters that YAML escapes are read back."""
    labels = (
        "no",
        "1e3",
        "~",
        "a: b",
        "#x",
        "y\u2028y",
        "été",
        *(f"un nom de classe assez long {n}" for n in range(30)),
    )
    assert load(draft("text", labels=labels)).task.labels == labels
    text = draft("text", labels=("Oui", "oui"))
    assert "TODO: 'Oui' and 'oui' differ only in case" in text and load(text).task.labels == ("Oui", "oui")


def test_several_inputs_are_all_in_the_prompt() -> None:
    task = load(draft("question_1", "le {contexte}", "réponse")).task
    assert task.inputs == ("question_1", "le_contexte", "reponse")
    assert task.user.splitlines()[1] == "Le {{contexte}}: {le_contexte}"


def test_positions_come_from_the_config(tmp_path: Path) -> None:
    assert read_max_positions(tmp_path) is None
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 512}), encoding="utf-8")
    assert read_max_positions(tmp_path) == 512
    (tmp_path / "config.json").write_text("[]", encoding="utf-8")
    assert read_max_positions(tmp_path) is None
