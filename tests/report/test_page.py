"""The page of runs at every stage: its charts, what it says is missing, and that it is harmless."""

import copy
import html
import html.parser
import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import plotly.graph_objects as go
import pytest
from scipy import stats

from rlef_jax import report
from rlef_jax.evaluation.collection import VERDICTS
from rlef_jax.report import charts, page, runs, traces
from rlef_jax.report.__main__ import main

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = {
    "name": "mini",
    "seed": 0,
    "episode": {"turn_limit": 2},
    "ppo": {"updates": 3, "rollouts": 10, "clip": 0.2},
    "sft": {"steps": 2},
    "eval": {"split": "test"},
}
RATES = {
    "1@2": {"rate": 0.5, "low": 0.4, "high": 0.65},
    "independent_1@2": {"rate": 0.45, "low": 0.3, "high": 0.5},
    "solved_by_turn_1": {"rate": 0.25, "low": 0.2, "high": 0.3},
    "solved_by_turn_2": {"rate": 0.5, "low": 0.4, "high": 0.65},
    "verdicts_by_turn": [{"OK": 30, "WRONG_ANSWER": 70}, {"TIMEOUT": 50, "OK": 20}],
    "problems": 50,
}
# What every version of the library has written of an update.
OLD = {
    "loss": 0.1,
    "value_loss": 0.2,
    "ratio_mean": 1.01,
    "clip_fraction": 0.02,
    "approx_kl": 0.001,
    "entropy": 0.7,
    "grad_norm_policy": 0.3,
    "grad_norm_value": 3.0,
    "first_ratio": 1.0,
    "first_logprob_gap": 2e-6,
    "explained_variance": 0.4,
    "solved": 0.4,
    "solved_by_turn_1": 0.2,
    "solved_by_turn_2": 0.4,
    "task_reward": -0.25,
    "return": -0.3,
    "invalid": 0.1,
    "turns": 1.6,
    "tokens": 800,
    "dropped": 0,
    "seconds_collect": 4.0,
    "seconds_executor_wait": 0.5,
    "seconds_learn": 6.0,
    "recompilations": 0,
}
NEW = OLD | {
    "episodes": 10,
    "reward_outcome": -0.2,
    "reward_invalid": -0.05,
    "reward_kl": -0.05,
    "turn_1_OK": 3,
    "turn_1_WRONG_ANSWER": 6,
    "turn_1_TIMEOUT": 1,
    "turn_2_OK": 2,
    "turn_2_NO_PROGRAM": 5,
    "repaired_at_turn_2": 2 / 7,
    "response_tokens_turn_1": 40.0,
    "feedback_tokens_turn_1": 30.0,
    "unchanged_at_turn_2": 0.1,
    "public_only": 0.1,
    "seconds_device": 3.0,
    "seconds_judging": 2.0,
    "workers": 4,
    "programs": 22,
    "first_mean_gap": 1e-7,
}


def write_run(
    workdir,
    config=CONFIG,
    sft=2,
    updates=3,
    metrics=NEW,
    evaluations=("before", "after"),
    summary=True,
):
    """A workdir as a run leaves it, with `metrics` in the line of every update.

    The KL of an update is 0.01 times its number.
    """
    lines = [{"phase": "sft", "step": step, "loss": 3.0 - step} for step in range(sft)]
    for step in range(updates):
        kl = {"kl_to_reference": 0.01 * step}
        lines.append({"phase": "rlef", "step": step, **metrics, **kl})
    if updates == 3:
        lines[-1] |= {"valid_1@2": 0.6, "valid_low": 0.5, "valid_high": 0.75}
    files = {"config.json": config, "phases/sft.json": {"seconds": 20.0, "recompilations": 0}}
    files |= {f"evaluations/{when}.json": {"0.2": RATES} for when in evaluations}
    if summary:
        versions = {"versions": {"jax": "0.10.2"}, "devices": "1 cpu"}
        files["summary.json"] = {"chosen_update": 3, **versions}
    for name, content in files.items():
        (workdir / name).parent.mkdir(parents=True, exist_ok=True)
        (workdir / name).write_text(json.dumps(content))
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(workdir)


class Page(html.parser.HTMLParser):
    """A page as a browser reads it: its tags, its text, and the figures that it draws."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.texts, self.scripts, self.styles, self._within = [], [], [], [], "text"
        with open(path) as file:
            self.feed(file.read())
        ids = [attributes.get("id") for _, attributes in self.named("script")]

        def no_constant(name):
            raise AssertionError(f"{name} is no JSON")

        self.figures = json.loads(self.scripts[ids.index("figures")], parse_constant=no_constant)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag in ("script", "style"):
            self._within = tag
            (self.scripts if tag == "script" else self.styles).append("")

    def handle_endtag(self, tag):
        self._within = "text"

    def handle_data(self, data):
        if self._within == "text":
            self.texts.append(data)
        else:
            (self.scripts if self._within == "script" else self.styles)[-1] += data

    def named(self, name):
        return [pair for pair in self.tags if pair[0] == name]

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def report_of(tmp_path, *workdirs):
    out = str(tmp_path / "report.html")
    report.write(workdirs, out)
    return Page(out)


def drawn_in(page, chart):
    return {trace["name"]: trace for trace in page.figures[chart]["data"] if "name" in trace}


# ---- what the charts hold


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return report_of(folder, write_run(folder / "run"))


def test_curves_hold_the_metrics_of_every_step(whole):
    (kl,) = drawn_in(whole, "kl").values()
    assert (kl["x"], kl["y"]) == ([0, 1, 2], [0, 0.01, 0.02])
    (loss,) = drawn_in(whole, "sft-loss").values()
    assert (loss["x"], loss["y"]) == ([0, 1], [3, 2])


def test_the_parts_of_the_reward_stand_beside_the_return(whole):
    parts = {name: trace["y"][0] for name, trace in drawn_in(whole, "reward").items()}
    assert parts == {"return": -0.3, "outcome": -0.2, "invalid code": -0.05, "KL": -0.05}


def test_rates_before_and_after_with_their_intervals(whole):
    bars = drawn_in(whole, "held-out-0.2")
    assert list(bars) == ["warm start", "after RLEF"]
    after = bars["after RLEF"]
    assert after["x"] == ["by turn 1", "1@2", "independent<br>1@2"]
    assert after["y"] == [0.25, 0.5, 0.45]
    np.testing.assert_allclose(after["error_y"]["array"], [0.05, 0.15, 0.05])
    np.testing.assert_allclose(after["error_y"]["arrayminus"], [0.05, 0.1, 0.15])
    assert "50.0 % +0.0 [40.0, 65.0] → [40.0, 65.0], 95 %" in whole.text


def test_solve_rates_are_pooled_over_collections_of_unequal_size(tmp_path):
    workdir = write_run(tmp_path / "run", updates=0)
    sizes, solved = [10, 4, 10, 10, 10, 6], [1, 4, 2, 3, 4, 0]
    with open(tmp_path / "run" / "metrics.jsonl", "a") as file:
        for step, (size, right) in enumerate(zip(sizes, solved)):
            counts = {"episodes": size, "solved_by_turn_2": right / size}
            file.write(json.dumps({"phase": "rlef", "step": step, **NEW, **counts}) + "\n")
    figure = report_of(tmp_path, workdir).figures["training"]
    band, line = figure["data"][:2]
    assert line["name"] == "by turn 2"
    # The last of six collections looks back on five of them.
    windows = [slice(max(0, i - 4), i + 1) for i in range(6)]
    pooled = [(sum(solved[window]), sum(sizes[window])) for window in windows]
    np.testing.assert_allclose(line["y"], [right / size for right, size in pooled], rtol=1e-5)
    assert pooled[-1] == (13, 40)
    intervals = [stats.binomtest(*pair).proportion_ci(method="wilson") for pair in pooled]
    high, low = band["y"][:6], band["y"][6:][::-1]
    np.testing.assert_allclose(np.stack([low, high], axis=1), intervals, atol=1e-4)
    assert band["x"] == [*range(6), *reversed(range(6))]


def test_validation_stands_at_the_updates_behind_the_policy_and_marks_the_chosen_one(whole):
    (rates,) = drawn_in(whole, "validation").values()
    assert (rates["x"], rates["y"]) == ([3], [0.6])
    assert rates["marker"]["symbol"] == ["star"]
    errors = rates["error_y"]
    np.testing.assert_allclose([*errors["array"], *errors["arrayminus"]], [0.15, 0.1])


def test_verdicts_by_turn(whole):
    first, second = drawn_in(whole, "verdicts-0-1"), drawn_in(whole, "verdicts-0-2")
    counts = {name: trace["y"][0] for name, trace in first.items()}
    assert counts == {"OK": 3, "WRONG_ANSWER": 6, "TIMEOUT": 1}
    assert {name: trace["y"][0] for name, trace in second.items()} == {"OK": 2, "NO_PROGRAM": 5}
    assert all(trace["groupnorm"] == "fraction" for trace in first.values())
    held_out = drawn_in(whole, "held-out-verdicts-0-0.2")
    assert held_out["TIMEOUT"]["y"] == [0, 50, 0, 50]
    moments = ["warm start"] * 2 + ["after RLEF"] * 2
    assert held_out["OK"]["x"] == [moments, ["turn 1", "turn 2"] * 2]
    assert tuple(charts.VERDICT_COLORS) == VERDICTS


def test_seconds_add_up_and_utilisation_is_their_share(whole):
    parts = {name: trace["y"][0] for name, trace in drawn_in(whole, "seconds-0").items()}
    assert parts == {"learning": 6, "sampling": 3, "waiting": 0.5, "other": 0.5}
    shares = {name: trace["y"][0] for name, trace in drawn_in(whole, "utilisation").items()}
    assert shares == {"device": 0.75, "executor": 2 / 16}
    rates = {name: trace["y"][0] for name, trace in drawn_in(whole, "throughput").items()}
    assert rates == {"of collecting": 200, "of the whole update": 80}
    (phase,) = drawn_in(whole, "phases").values()
    assert (phase["name"], phase["x"], phase["y"]) == ("sft", [20], ["run"])


def test_plotly_knows_every_attribute_of_every_figure(whole):
    for chart, figure in whole.figures.items():
        plain = json.loads(re.sub(r'"--[a-z0-9]+"', '"#123456"', json.dumps(figure)))
        # raises for one that it does not know
        assert len(go.Figure(plain).data) == len(figure["data"]), chart


def test_every_colour_is_a_variable_of_the_page(whole):
    named = set(re.findall(r'"(--[a-z0-9]+)"', json.dumps(whole.figures)))
    variables = set(re.findall(r"(--[a-z0-9]+):", "".join(whole.styles)))
    assert {"--c1", "--good", "--muted"} <= named <= variables


def test_what_is_not_a_number_is_a_gap(tmp_path):
    broken = {"entropy": float("nan"), "approx_kl": float("inf")}
    drawn = report_of(tmp_path, write_run(tmp_path / "run", metrics=NEW | broken))
    assert "entropy" not in drawn.figures and "update-kl" not in drawn.figures
    lines = [{"a": 1}, {"a": float("nan")}, {}, {"a": 0.123456789}]
    assert traces.column(lines, "a") == [1, None, None, 0.123457]


# ---- runs at every stage


def test_a_whole_run_misses_nothing(whole):
    assert "finished; evaluated is the policy of update 3" in whole.text
    assert "Nothing to show yet" not in whole.text and "There is no" not in whole.text


def test_a_run_that_has_just_started(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(CONFIG))
    drawn = report_of(tmp_path, str(tmp_path / "run"))
    assert "just started" in drawn.text and "The run is not over" in drawn.text
    assert "no evaluation of the warm start yet" in drawn.text
    assert "no update of RLEF yet" in drawn.text
    assert drawn.figures == {} and "No episodes to show" in drawn.text


def test_a_run_in_its_warm_start(tmp_path):
    workdir = write_run(tmp_path / "run", sft=1, updates=0, evaluations=(), summary=False)
    drawn = report_of(tmp_path, workdir)
    assert "warm start: 1 of 2 steps done" in drawn.text
    assert list(drawn.figures) == ["phases", "sft-loss"]


def test_a_killed_run_with_half_a_line(tmp_path):
    workdir = write_run(tmp_path / "run", updates=2, evaluations=("before",), summary=False)
    with open(tmp_path / "run" / "metrics.jsonl", "a") as file:
        file.write('{"phase": "rlef", "step": 2, "kl_to_ref')
    drawn = report_of(tmp_path, workdir)
    assert "2 of 3 updates done" in drawn.text and "no evaluation after RLEF yet" in drawn.text
    assert list(drawn_in(drawn, "held-out-0.2")) == ["warm start"]
    assert next(iter(drawn_in(drawn, "kl").values()))["x"] == [0, 1]


def test_a_run_without_a_warm_start_does_not_miss_it(tmp_path):
    workdir = write_run(tmp_path / "run", config=CONFIG | {"sft": {"steps": 0}}, sft=0)
    drawn = report_of(tmp_path, workdir)
    assert "Loss of the supervised warm start" not in drawn.text
    # Nor does it call the model that it started from one.
    assert list(drawn_in(drawn, "held-out-0.2")) == ["before", "after RLEF"]
    assert "before, % after RLEF, % gain" in drawn.text


def test_a_run_that_was_not_evaluated_before_does_not_miss_it(tmp_path):
    without = {"eval": {"before": False}}
    workdir = write_run(tmp_path / "run", config=CONFIG | without, evaluations=("after",))
    drawn = report_of(tmp_path, workdir)
    assert "There is no" not in drawn.text and "50.0 %" in drawn.text
    assert list(drawn_in(drawn, "held-out-0.2")) == ["after RLEF"]


def test_the_rate_that_chose_the_policy_stands_at_the_head_with_its_interval(tmp_path):
    workdir = write_run(tmp_path / "run")
    path = tmp_path / "run" / "summary.json"
    summary = json.loads(path.read_text())
    summary["chosen_valid"] = {"rate": 0.6, "low": 0.5, "high": 0.75}
    path.write_text(json.dumps(summary))
    said = "the policy of update 3, the best on the valid split: 60.0 [50.0, 75.0] %"
    assert said in report_of(tmp_path, workdir).text


def test_metrics_of_an_older_version_are_shown_as_far_as_they_go(tmp_path):
    drawn = report_of(tmp_path, write_run(tmp_path / "run", metrics=OLD))
    parts = {name: trace["y"][0] for name, trace in drawn_in(drawn, "seconds-0").items()}
    assert parts == {"learning": 6, "waiting": 0.5, "other": 3.5}
    assert drawn_in(drawn, "training")["by turn 2"]["y"] == [0.4] * 3
    assert list(drawn_in(drawn, "reward")) == ["return"]
    said = re.findall(r"Nothing to show yet, or not in these metrics: ([^.]*)\.", drawn.text)
    missing = {title for titles in said for title in titles.split(", ")}
    titles = {"Repairs", "Utilisation while collecting", "Verdicts at turn 1", "Length of feedback"}
    assert titles <= missing


def test_what_is_no_run_or_damaged_is_one_clear_error(tmp_path):
    no_run = "nowhere holds no run: there is no config.json of one in it"
    with pytest.raises(FileNotFoundError, match=no_run):
        report.write([str(tmp_path / "nowhere")], str(tmp_path / "out.html"))
    (tmp_path / "hf").mkdir()
    # weights have a file of that name too
    (tmp_path / "hf" / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(FileNotFoundError, match="hf holds no run"):
        report.write([str(tmp_path / "hf")], str(tmp_path / "out.html"))
    workdir = write_run(tmp_path / "run")
    with pytest.raises(ValueError, match="a run is given twice"):
        report.write([workdir, workdir + "/"], str(tmp_path / "out.html"))
    (tmp_path / "run" / "summary.json").write_text("{")
    with pytest.raises(ValueError, match="summary.json is damaged"):
        report.write([workdir], str(tmp_path / "out.html"))
    line = '{"phase": "sft", "step": 0, "loss": 1}\n'
    for damaged in ("not JSON\n", '{"step": 1}\n'):
        (tmp_path / "run" / "metrics.jsonl").write_text(line + damaged)
        with pytest.raises(ValueError, match="metrics.jsonl, line 2, is damaged .*: delete that"):
            report.write([workdir], str(tmp_path / "out.html"))
    assert not list(tmp_path.glob("out*"))


# ---- several runs


def test_runs_side_by_side(tmp_path):
    other = copy.deepcopy(CONFIG) | {"seed": 1}
    other["ppo"]["clip"] = 0.1
    unfinished = write_run(tmp_path / "b", config=other, updates=2, summary=False)
    drawn = report_of(tmp_path, write_run(tmp_path / "a"), unfinished)
    kl = drawn_in(drawn, "kl")
    assert {name: trace["x"] for name, trace in kl.items()} == {"a": [0, 1, 2], "b": [0, 1]}
    assert kl["a"]["line"]["color"] == "--c1" and kl["b"]["line"]["color"] == "--c2"
    training = drawn_in(drawn, "training")
    assert list(training) == ["a: by turn 2", "a: by turn 1", "b: by turn 2", "b: by turn 1"]
    assert {training[f"b: by turn {t}"]["line"]["color"] for t in (1, 2)} == {"--c2"}
    assert training["a: by turn 2"]["line"]["dash"] != training["a: by turn 1"]["line"]["dash"]
    held_out = list(drawn_in(drawn, "held-out-0.2"))
    assert held_out == ["a: warm start", "a: after RLEF", "b: warm start", "b: after RLEF"]
    assert {"verdicts-0-1", "verdicts-1-1", "seconds-0", "seconds-1"} <= set(drawn.figures)
    found = [runs.read(str(tmp_path / name), name) for name in "ab"]
    settings = page.settings_of(found)
    differing = [(name, values) for name, values in settings if len(set(values) - {None}) > 1]
    assert differing == [("seed", ["0", "1"]), ("ppo.clip", ["0.2", "0.1"])]
    assert "Settings that differ setting a b seed 0 1 ppo.clip 0.2 0.1" in drawn.text


def test_runs_are_called_by_as_much_of_their_paths_as_tells_them_apart():
    assert runs.names(["runs/mini", "runs/token/"]) == ["mini", "token"]
    assert runs.names(["x/mini", "y/mini", "y/token"]) == ["x/mini", "y/mini", "token"]


# ---- the page itself


def test_nothing_is_loaded_from_anywhere(whole):
    for tag, attributes in whole.tags:
        for name in ("src", "href", "srcset", "poster", "data", "action"):
            assert attributes.get(name, "#").startswith(("#", "data:")), (tag, attributes)
    assert not re.search(r"url\(|@import", "".join(whole.styles))


def test_names_and_settings_are_text_and_nothing_else(tmp_path, whole):
    hostile = "<img src=x onerror=alert(1)>"
    config = CONFIG | {"name": f"</script>{hostile}", "data": {hostile: hostile}}
    workdir = write_run(tmp_path / hostile, config=config)
    drawn = report_of(tmp_path, workdir, write_run(tmp_path / "b"))
    assert not drawn.named("img") and len(drawn.named("script")) == len(whole.named("script"))
    assert hostile in drawn.text
    # plotly would take tags for markup
    assert html.escape(hostile) in next(iter(drawn_in(drawn, "kl")))


def test_every_chart_has_a_place_on_the_page(whole):
    places = [attributes["id"] for tag, attributes in whole.named("figure")]
    assert len(places) > 20 and sorted(places) == sorted(whole.figures)


def test_every_chart_says_what_is_healthy(tmp_path):
    run = runs.read(write_run(tmp_path / "run"), "run")
    for section in charts.sections([run]).values():
        for chart in section:
            assert chart.traces and chart.note.endswith("."), chart.id
            assert "Healthy" in chart.note or "cut" in chart.note or chart.id == "phases", chart.id


def test_from_the_command_line(tmp_path):
    workdir = write_run(tmp_path / "run")
    command = [sys.executable, "-m", "rlef_jax.report", workdir]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{workdir}/report.html: open it in a browser\n"
    assert "kl" in Page(f"{workdir}/report.html").figures


def test_what_the_command_refuses(tmp_path, monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["report", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, capsys.readouterr().err

    assert call(str(tmp_path))[0].startswith(f"error: {tmp_path} holds no run")
    status, said = call("a", "b", "--episodes")
    assert status == 2 and "--episodes and --terminal show one run" in said
    status, said = call("a", "--filter", "repaired")
    assert status == 2 and "--filter and --episode go with --terminal" in said


def test_several_runs_go_to_a_file_of_their_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    two = [write_run(tmp_path / name) for name in "ab"]
    monkeypatch.setattr(sys, "argv", ["report", *two])
    main()
    assert capsys.readouterr().out == "comparison.html: open it in a browser\n"
    assert list(drawn_in(Page("comparison.html"), "kl")) == ["a", "b"]
