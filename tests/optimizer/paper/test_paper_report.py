"""Tables, figures and the published quirks, all from raw rows; the commands around them."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner

from metaspo import cli
from optimizer.errors import DataError
from optimizer.paper.beside import published
from optimizer.paper.figures import figures
from optimizer.paper.keeping import Ledger, Spent
from optimizer.paper.page import report_page, write_report
from optimizer.paper.paired import paired
from optimizer.paper.quirks import extracted, published_score, union_f1
from optimizer.paper.raw import RawRow, Step, read_raw, write_lines
from optimizer.paper.shown import Shown, Table, over_seeds
from optimizer.paper.tables import tables
from optimizer.paper.user_prompts import OWN, own_wordings
from optimizer.records import SLOT
from tests.optimizer.paper.world import change, row, write_world
from tests.optimizer.scripted import task


def table(rows: list[RawRow], name: str) -> Table:
    return next(table for table in tables(rows) if table.name == name)


def test_a_mean_over_seeds_keeps_the_error_of_the_rows_and_adds_the_spread_of_the_seeds() -> None:
    alike = over_seeds([row(seed=1), row(seed=2)])
    assert alike is not None and alike.low == pytest.approx(0.3) and alike.seeds == 2 and alike.n == 60
    apart = over_seeds([row(score=0.3, seed=1), row(score=0.5, seed=2)])
    spread = 1.959963984540054 * math.sqrt(0.02 / 2)
    assert apart is not None and apart.low == pytest.approx(0.4 - math.hypot(0.1, spread))
    assert over_seeds([]) is None


def test_a_partial_run_shows_what_there_is_and_no_mean() -> None:
    rows = [row(), row(name="dental"), row("cot")]
    found = table(rows, "generalization")
    assert found.columns == ("method", "anatomy", "dental", "mean")
    default, cot = found.rows
    assert isinstance(default[3], Shown) and default[3].n == 120
    assert cot[2] is None and cot[3] is None
    assert "| CoT | 40.0 [30.0, 50.0] (n=60) | - | - |" in report_page(rows)


def test_means_over_different_tasks_never_stand_side_by_side() -> None:
    rows = [row(), row(name="dental", score=0.2), row("cot", score=0.5)]
    for line in table(rows, "cost").rows:
        assert (line[-1] is None) == (line[0] == "CoT")
    assert "CoT" not in figures(rows)["domains"] and "CoT" not in figures(rows)["score_against_calls"]
    prompts = [row(user_prompt_scores=(0.1, 0.2), answers=60), row(name="dental", user_prompt_scores=(0.9, 0.9)),
               row("cot", user_prompt_scores=(0.3, 0.1), answers=60)]  # fmt: skip
    assert [line[4] for line in table(prompts, "robustness").rows] == [0.2, 0.3]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([row(), row("metaspo", score=0.9)], "Better than Default, intervals apart."),
        ([row(), row("metaspo", score=0.45)], "Above Default, intervals overlap."),
        ([row(), row("metaspo", score=0.4)], "Nothing beats Default."),
        ([row(malformed=0.6), row("metaspo", score=0.9)], "malformed answers fell by at least as much"),
        ([row(), row("metaspo", score=0.5), row("constant", score=0.7)], "A constant answer does as well or better."),
        ([row(), row("metaspo", saturated=True)], "At its ceiling: not searched."),
    ],
)
def test_the_reading_says_plainly_what_holds(rows: list[RawRow], told: str) -> None:
    (line,) = table(rows, "reading").rows
    assert told in str(line[-1])


def test_robustness_counts_user_prompts_that_do_better_than_under_default() -> None:
    rows = [row(user_prompt_scores=(0.2, 0.4), answers=120), row("metaspo", user_prompt_scores=(0.3, 0.4), answers=120)]
    _, ours = table(rows, "robustness").rows
    share = ours[-1]
    assert ours[:-1] == ("MetaSPO (ours)", 2, 0.3, 0.35, 0.4)
    assert isinstance(share, Shown) and (share.score, share.n) == (0.5, 2) and share.low < 0.5 < share.high


def test_tables_of_the_other_parts_of_the_protocol() -> None:
    rows = [
        row(),
        row("metaspo", score=0.5),
        row("metaspo", score=0.45, sources=2),
        row("metaspo", score=0.6, scope="global"),
        row("metaspo", score=0.7, adapted=True, curve=(Step(calls=0, test=0.5), Step(calls=9, train=1.0, test=0.7))),
        row("metaspo", score=0.3, base_model="other", found_on="small"),
        row("outer_loop", score=0.44),
    ]
    names = {found.name for found in tables(rows)}
    assert {"adaptation", "ablations", "scopes", "source_counts", "other_bases", "cost"} <= names
    assert [line[0] for line in table(rows, "source_counts").rows] == ["2", "all"]
    assert set(figures(rows)) == {"domains", "score_against_calls", "adaptation", "change_per_task"}


def test_published_figures_are_those_of_the_paper() -> None:
    told = published()
    means = {key: [value for value in values if value is not None] for key, values in told.generalization.rows.items()}
    wanted = {"domain/default": 32.2, "domain/cot": 33.2, "global/sprig": 35.0, "global/metaspo-faithful": 41.4,
              "domain/sprig": 37.0, "domain/metaspo-faithful": 44.5}  # fmt: skip
    for key, mean in wanted.items():
        assert len(means[key]) == 14 and sum(means[key]) / 14 == pytest.approx(mean, abs=0.1)
        assert told.generalization.means[key] == mean
    for method, scores in told.adaptation.rows.items():
        assert sum(scores) / 5 == pytest.approx(told.adaptation.means[method], abs=0.1)


def test_published_extractors_take_letters_out_of_prose() -> None:
    assert extracted("option_letter", "<answer>answer: C</answer>") == "A"
    assert extracted("bbh_option", "<answer>the answer is c</answer>") == "E"
    assert extracted("first_integer", "<answer>I give 4 of 5</answer>") == "4"
    assert extracted("bbh_text", "<answer>Twenty-one</answer>") == "21"
    assert extracted("union_f1", "no tags here") == "no answer tags"
    assert published_score("squad_whole", [("The Tower",)], ["tower."]) == 1.0
    assert published_score("", [("a",)], ["a"]) is None


def test_one_malformed_answer_costs_a_published_class() -> None:
    golds = ["yes", "no"] * 250
    answers = golds[:450] + ["no" if gold == "yes" else "yes" for gold in golds[450:]]
    assert union_f1(golds, answers) == pytest.approx(0.9)
    assert union_f1(golds, [*answers[:-1], "no answer tags"]) == pytest.approx(0.6, abs=0.01)


def test_as_published_shows_both_metrics_of_the_same_replies() -> None:
    rows = [row(published_score=0.55, malformed=0.2)]
    assert "As published" not in report_page(rows)
    page = report_page(rows, as_published=True)
    assert "| anatomy | Default | 40.0 [30.0, 50.0] (n=60) | 55.0 (n=60) | 15.0 | 20.0 | - |" in page
    counted = report_page([row(published_score=0.1, untagged=0.7)], as_published=True)
    assert "| -30.0 | 0.0 | 70.0 |" in counted and "all such replies are one more class" in counted


def test_own_wordings_hold_the_slot_once_and_differ() -> None:
    made = own_wordings(task(), OWN).prompts
    assert len(set(made)) == OWN == 10
    assert all(prompt.count(SLOT) == 1 and "yes or no" in prompt for prompt in made)
    with pytest.raises(DataError, match="set `user_prompts: 10`"):
        own_wordings(task(), 11)


def test_report_writes_pages_tables_and_figures(tmp_path: Path) -> None:
    written = write_report(tmp_path, [row(), row("metaspo", score=0.6), row("constant", score=0.5)])
    names = {path.name for path in written}
    assert {"report.md", "report.json", "generalization.csv", "domains.svg", "change_per_task.svg"} <= names
    for path in written:
        if path.suffix == ".svg":
            assert ET.fromstring(path.read_text()).tag.endswith("svg")
    with (tmp_path / "generalization.csv").open() as file:
        first = next(csv.DictReader(file))
    assert first["row"] == "Default" and float(first["value"]) == pytest.approx(0.4)


def test_a_later_row_replaces_an_earlier_one_of_the_same_cell(tmp_path: Path) -> None:
    path = tmp_path / "raw.jsonl"
    write_lines(path, [row(score=0.1), row(score=0.2), row(score=0.3, seed=2)])
    assert [found.score for found in read_raw(path)] == [0.2, 0.3]
    path.write_text("{}\n")
    with pytest.raises(DataError, match=r"raw\.jsonl:1: no raw result"):
        read_raw(path)


def test_the_ledger_stands_in_the_report_with_the_cells_left_out(tmp_path: Path) -> None:
    roles = {"base": Spent(calls=900, tokens_in=12_000, tokens_out=3_000, usd=1.5),
             "judge": Spent(calls=4, tokens_in=0, tokens_out=0, usd=None)}  # fmt: skip
    left = {"medical, gepa, seed 1": "Method gepa needs the extra."}
    ledger = Ledger(cells=5, finished=3, calls=904, estimated_calls=2_000, seconds=5_400.0, roles=roles, left_out=left)
    write_lines(tmp_path / "raw.jsonl", [row()])
    assert "ledger" not in run("report", str(tmp_path / "raw.jsonl")).output
    write_lines(tmp_path / "ledger.json", [ledger])
    page = run("report", str(tmp_path / "raw.jsonl"), "--out", str(tmp_path / "out")).stdout
    assert "3 of 5 cells are finished in 5,400 s (1.5 hours); for these at most 2,000 calls were foreseen" in page
    assert "| base | 900 | 12,000 | 3,000 | 1.50 |" in page and "| judge | 4 | - | - | - |" in page
    assert "- medical, gepa, seed 1: Method gepa needs the extra." in page
    assert "### The ledger" in (tmp_path / "out" / "report.md").read_text()
    told = json.loads(run("report", str(tmp_path / "raw.jsonl"), "--json").stdout)
    assert told["ledger"]["roles"]["base"]["calls"] == 900 and told["ledger"]["left_out"] == left
    (tmp_path / "ledger.json").write_text("{")
    broken = run("report", str(tmp_path / "raw.jsonl"))
    assert broken.exit_code == 1 and "is no ledger" in broken.output


# --- the commands ----------------------------------------------------------------------------------------------------


def run(*words: str) -> Any:
    return CliRunner().invoke(cli, ["paper", *words])


def test_the_commands_from_init_to_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("init").exit_code == 0 and (tmp_path / "paper.yaml").exists()
    assert "is there already" in run("init").output
    path = write_world(tmp_path / "world")
    change(path, methods=["constant"])  # the one method that needs no model
    told = run("estimate", str(path), "--method", "default", "--method", FAITHFUL_NAME, "--calls-per-second", "2")
    assert "colours, default, seed 1" in told.output and "hours at this pace, price unknown" in told.output
    priced = {"base": {"model": "b", "price_in": 1, "price_out": 2}}
    change(path, models=priced)
    assert json.loads(run("estimate", str(path), "--method", "default", "--json").stdout)["usd"]["high"] > 0
    done = run(str(path), "--seed", "1")
    assert done.exit_code == 0 and "Constant answer" in done.output
    raw = tmp_path / "world" / "home" / "raw.jsonl"
    assert json.loads(run("report", str(raw), "--json").stdout)["about"]["rows"] == 3
    assert run("report", str(raw), "--out", str(tmp_path / "report")).exit_code == 0
    assert (tmp_path / "report" / "report.md").exists()
    assert "anatomy" in run("tasks").output


FAITHFUL_NAME = "metaspo-faithful"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("report", "nowhere.jsonl"), "cannot be read"),
        (("run", "nowhere.yaml"), "metaspo paper init"),
        (("--data", "nowhere"), "metaspo paper init"),
        (("init", "no/such/p.yaml"), "The folder no/such is missing: make it with `mkdir -p no/such`"),
        (("--fewer", "--data", "nowhere", "estimate"), "There is no paper.yaml"),
        (("--fewer", "--data=nowhere", "tasks"), "No such option"),
    ],
)
def test_bad_input_is_one_sentence(
    words: tuple[str, ...], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*words)
    assert result.exit_code in (1, 2) and told in result.output and "Traceback" not in result.output


def test_a_mistyped_command_is_answered_with_the_nearest_one() -> None:
    result = run("reprot", "raw.jsonl")
    assert result.exit_code == 2 and "Did you mean 'report'" in result.output
    assert "Commands:" in run("--help").output


def test_options_may_stand_before_the_command(tmp_path: Path) -> None:
    path = write_world(tmp_path)
    after = run("estimate", str(path), "--method", "default", "--data", str(tmp_path / "data"), "--json")
    before = run("--method", "default", "--data", str(tmp_path / "data"), "--json", "estimate", str(path))
    assert before.exit_code == 0 and before.stdout == after.stdout


def test_a_missing_data_folder_names_the_command_that_mends_it(tmp_path: Path) -> None:
    path = write_world(tmp_path)
    result = run(str(path), "--data", str(tmp_path / "nowhere"))
    assert result.exit_code == 1 and "metaspo paper run --data DIR" in result.output


# --- paired differences ----------------------------------------------------------------------------------------------


def lines_of(rows: list[RawRow]) -> dict[str, tuple[Any, ...]]:
    return {str(line[0]): line[1:] for line in paired(rows).rows}


def test_paired_differences_go_question_by_question_over_all_seeds() -> None:
    start = row(per_question=(0.0, 1.0, 0.0, 1.0))
    ours = [row("metaspo", seed=s, per_question=p) for s, p in ((1, (1.0, 1.0, 0.0, 1.0)), (2, (1.0, 1.0, 1.0, 1.0)))]
    one = row("metaspo-faithful", per_question=(0.0, 1.0, 0.0, 1.0))
    lines = lines_of([start, *ours, one])
    assert list(lines) == [
        "MetaSPO (faithful) − Default",
        "MetaSPO (ours) − Default",
        "MetaSPO (ours) − MetaSPO (faithful)",
    ]
    cell, mean = lines["MetaSPO (ours) − Default"]
    sd = math.sqrt(sum((d - 0.375) ** 2 for d in (1.0, 0.0, 0.5, 0.0)) / 3)
    assert cell.score == pytest.approx(0.375) and cell.n == 4
    assert cell.high - cell.low == pytest.approx(2 * 3.182446 * sd / 2, rel=1e-5) and mean == cell
    same = lines["MetaSPO (faithful) − Default"][0]
    assert (same.score, same.low, same.high) == (0.0, 0.0, 0.0)


def test_unscored_questions_and_rows_of_other_questions_are_left_out() -> None:
    start = row(per_question=(0.0, None, 0.0))
    assert lines_of([start, row("cot", per_question=(1.0, 1.0, 0.0))])["CoT − Default"][0].n == 2
    assert not lines_of([start, row("cot", per_question=(1.0, 1.0))])
    assert not lines_of([row(), row("cot")]), "rows of before scores were kept question by question"


def test_the_curve_of_calls_shows_the_tables_mean_where_one_task_has_more_seeds() -> None:
    rows = [row(score=0.2, seed=1), row(score=0.2, seed=2), row(name="dental", score=0.8)]
    alike = [row(score=0.2), row(name="dental", score=0.8)]
    assert figures(rows)["score_against_calls"] == figures(alike)["score_against_calls"]
