"""Library messages as the commands print them: arguments become flags, calls become commands, data is kept."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from toolkit.cli.command_line import run_command
from toolkit.cli.flags import _FLAGS, with_flags
from toolkit.errors import RunError

CASES = [
    ("described by: toolkit.Recipe.model_json_schema()", "described by: python scripts/sft.py --help"),
    ("Train first: toolkit.train(RECIPE)", "Train first: python scripts/sft.py RECIPE"),
    ("toolkit.preflight(RECIPE).report() shows", "python scripts/preflight.py RECIPE shows"),
    ("with `toolkit.train(RECIPE, resume=True)`, or", "with `python scripts/sft.py RECIPE --resume`, or"),
    (
        "Create it with: toolkit.open_run('outputs/a').export()",
        "Create it with: python scripts/export_gguf.py outputs/a",
    ),
    ("toolkit.open_run('my runs/a').export()", "python scripts/export_gguf.py 'my runs/a'"),
    (
        "toolkit.open_run('outputs/a').evaluate('x y.gguf')",
        "python scripts/eval_generate.py outputs/a --model 'x y.gguf'",
    ),
    ("Create one with: run.evaluate()", "Create one with: python scripts/eval_generate.py RUN"),
    ("Export it with run.export().", "Export it with python scripts/export_gguf.py RUN."),
    ('e.g. overrides={"data.columns.premise": "sentence1"}.', "e.g. --set data.columns.premise=sentence1."),
    ('or overrides={"model.max_seq_length": 300} where', "or --set model.max_seq_length=300 where"),
    ("overrides: seed.x: 'seed' is not a section.", "--set seed.x: 'seed' is not a section."),
    ("Leave out calibrated=True, or the overrides.", "Leave out --calibrated, or the --set flags."),
    ("Add resume=True to finish it, overwrite=True to", "Add --resume to finish it, --overwrite to"),
    ("leave out memory and add probe=True.", "leave out --memory and add --probe."),
    ("with the same data=FILE and limit=N.", "with the same --data FILE and --limit N."),
    ("or pass accept_changes=True to use", "or pass --accept-changes to use"),
    ("or output_dir for another folder.", "or --output-dir for another folder."),
    ("Pass output_dir.", "Pass --output-dir."),
    ('Add model="base", or leave out shots.', "Add --model base, or leave out --shots."),
    ('mode="free" needs a model', "--mode free needs a model"),
    ("model='best' is not adapter", "--model 'best' is not adapter"),
    ('model="l\'été.gguf" is not adapter', '--model "l\'été.gguf" is not adapter'),
    ("shots=3 is for", "--shots 3 is for"),
    ("memory=16000000000 does not work", "--memory 16000000000 does not work"),
    ("another folder with output=DIR.", "another folder with --output DIR."),
    ("evaluate other rows with data=FILE.", "evaluate other rows with --data FILE."),
    ("Pass converter=PATH with the path of", "Pass --converter PATH with the path of"),
]


@pytest.mark.parametrize(("message", "printed"), CASES)
def test_messages_are_translated(message: str, printed: str) -> None:
    assert with_flags(message) == printed


def test_every_rule_has_a_case() -> None:
    for pattern, _ in _FLAGS:
        assert any(re.search(pattern, message) for message, _ in CASES), pattern


def test_path_with_apostrophe_stays_one_word() -> None:
    path = "outputs/été d'hiver"
    hint = f"Create it with: toolkit.open_run({path!r}).export()"
    assert with_flags(hint) == """Create it with: python scripts/export_gguf.py 'outputs/été d'"'"'hiver'"""


@pytest.mark.parametrize(
    "message",
    [
        "recipe.yaml: training.output_dir: not a key of section training.",
        "recipe.yaml: output_dir: not a key of a recipe.",
        "recipe.yaml: overrides: not a key of a recipe.",
        "Data file not found: /data/output_dir/rows.jsonl.",
        "There is no run folder outputs/lr=1e-4,shots=3.",
        "There is no run folder outputs/memory=16/a.",
        "row 3: label 'output_dir' is not one of a, b.",
        "model.max_seq_length 16 is too short for the answer in 48 rows.",
    ],
)
def test_keys_and_paths_are_kept(message: str) -> None:
    assert with_flags(message) == message


def test_commands_print_flags(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse() -> None:
        raise RunError('shots=3 is for model="base".', hint="Leave out calibrated=True.")

    assert run_command(refuse) == 2
    assert capsys.readouterr().err == "error: --shots 3 is for --model base.\nhint: Leave out --calibrated.\n"


def _render(part: ast.expr) -> str:
    """Render a part of an f-string with 7 as every value, or '7' for a repr."""
    if isinstance(part, ast.Constant):
        return str(part.value)
    return "'7'" if isinstance(part, ast.FormattedValue) and part.conversion == ord("r") else "7"


def messages(path: Path) -> Iterator[str]:
    """Yield the texts of a module that can end up in an error: from raise statements, hints and constants."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    sources: list[ast.AST] = [node for node in ast.walk(tree) if isinstance(node, ast.Raise)]
    sources += [node.value for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "hint"]
    sources += [node for node in tree.body if isinstance(node, (ast.Assign, ast.AnnAssign))]
    parts = {part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for source in sources:
        for node in {*ast.walk(source)} - parts:
            if isinstance(node, ast.JoinedStr):
                # The value of `overrides` is always a dictionary, here one that is made from the user's data.
                yield "".join(_render(part) for part in node.values).replace("overrides=7", 'overrides={"7": "7"}')
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_no_message_keeps_api_spelling() -> None:
    api = re.compile(
        r"toolkit\.\w+\(|\brun\.\w+\(|\boutput_dir\b|\boverrides=|"
        r"\b(resume|overwrite|calibrated|probe|weights|progress|model|mode|shots|limit|verify|memory|output)="
    )
    changed = 0
    for path in (ROOT / "toolkit").rglob("*.py"):
        for message in messages(path) if path.name != "flags.py" else ():
            printed = with_flags(message)
            changed += printed != message
            assert not api.search(printed), f"{path.name}: {message!r} is printed as {printed!r}"
    assert changed > 30
