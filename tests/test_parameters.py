"""Parameters: what is declared, what is given, and that whatever does not fit is one sentence."""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from throwaway import make_repository, use, write_notebook

from sandbagging.errors import UserError
from sandbagging.suite import parameters, runner, sweeps
from sandbagging.suite.parameters import Parameter


@pytest.fixture(scope="module")
def planning(tmp_path_factory):
    """A repository that nothing runs in: for checks of parameters."""
    root = make_repository(tmp_path_factory.mktemp("planning") / "repository")
    with pytest.MonkeyPatch.context() as patch:
        use(root, patch)
        yield root


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["n_tset=5"], r"No notebook declares the parameter n_tset \(-p\); did you mean n_test\?"),
        (["n_test=five"], r"n_test \(-p\) must be int, but 'five' is str"),
        (["n_test=true"], "must be int, but True is bool"),
        (["n_test=1.5"], "must be int, but 1.5 is float"),
        (["speed=fast"], "speed .* must be float"),
        (["speed=.inf"], "speed .* must be float"),
        (["layers=3"], r"layers .* must be list\[int\], but 3 is int"),
        (["layers=[1, two]"], r"layers .* must be list\[int\]"),
        (["label=[a]"], "label .* must be str"),
        (["hf_token=abc"], "sounds like a credential"),
        (["password=abc"], "sounds like a credential"),
        (["run=b"], "--run NAME"),
        (["n_test"], "name=value"),
        (["n_test=1", "n_test=2"], "given twice"),
        (["n_test=[1"], "cannot be read"),
        (["layers=[2020-13-45]"], "cannot be read|must be"),
    ],
)
def test_wrong_parameters_get_one_sentence(planning, words, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        runner.plan("laptop", "b", parameters.parse_overrides(words))
    assert "\n" not in str(caught.value) and "abc" not in str(caught.value)


def test_right_parameters_reach_the_notebooks_that_declare_them(planning):
    words = ["n_test=5", "speed=2", "label=7", "layers=[]", "k=1"]
    plan = runner.plan("quick", "b", parameters.parse_overrides(words))
    first, second, third = plan.steps
    assert first.overrides == {"n_test": 5, "speed": 2.0, "label": "7", "layers": []}
    assert isinstance(first.overrides["speed"], float)
    assert (second.overrides, third.overrides, third.parameters) == ({"k": 1}, {}, {"n_draws": 4})
    assert runner.plan("quick", "b", {"speed": "1e-3"}).steps[0].overrides == {
        "n_test": 2,
        "speed": 0.001,
    }


def test_parameter_of_a_notebook_that_is_not_run_is_refused(planning):
    with pytest.raises(UserError, match="k is a parameter of 07_find_the_heads"):
        runner.plan("laptop", "b", {"k": "1"}, ["08"])


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("n_tset: 5\n", r"n_tset \(odd.yaml\); did you mean n_test"),
        ("n_test: many\n", r"n_test \(odd.yaml\) must be int"),
        ("label: 5\n", "label .* must be str, but 5 is int"),
        ("- a\n", "name: value"),
        ("a: [\n", "not readable as YAML"),
        ("api_key: 1\n", "credential"),
        ("notebooks: [11_nothing]\n", "no notebook 11_nothing"),
        ("notebooks: 3\n", "list of notebook names"),
    ],
)
def test_wrong_sets_get_one_sentence(planning, text, sentence):
    path = planning / "papermill_runs/parameters/odd.yaml"
    path.write_text(text if text.startswith(("-", "notebooks")) else text + "notebooks: ['00']\n")
    try:
        with pytest.raises(UserError, match=sentence):
            runner.plan("odd", "b")
    finally:
        path.unlink()


def test_unknown_set_and_notebook_name_the_nearest(planning):
    with pytest.raises(UserError, match="no parameter set laptob; did you mean laptop"):
        runner.plan("laptob", "b")
    with pytest.raises(UserError, match="did you mean 08_ablate_five_heads"):
        runner.plan("laptop", "b", notebooks=["08_ablate_heads"])
    with pytest.raises(UserError, match="Several notebooks begin with '0'"):
        runner.plan("laptop", "b", notebooks=["0"])


def test_secret_names():
    for name in (
        "token",
        "hf_token",
        "HF_TOKEN",
        "apiKey",
        "key",
        "secret_sauce",
        "my_password",
        "credentials",
        "hftoken",
    ):
        assert parameters.looks_secret(name), name
    for name in ("n_tokens", "max_new_tokens", "model", "keep", "layers", "seed"):
        assert not parameters.looks_secret(name), name


NAMES = st.one_of(
    st.sampled_from(["n_test", "speed", "label", "layers", "k", "n_draws", "run"]),
    st.text(max_size=12),
)
TEXTS = st.one_of(
    st.text(max_size=30),
    st.integers().map(str),
    st.floats().map(str),
    st.lists(st.integers()).map(str),
    st.dates().map(str),
)


@settings(max_examples=150, deadline=None)
@given(name=NAMES, text=TEXTS)
@example(name="layers", text="[" * 3000)
@example(name="n_test", text="9" * 5000)
@example(name="speed", text="1" + "0" * 400)
@example(name="label", text="\ud800")
@example(name="label", text="a\x00b")
@example(name="layers", text="&a [*a]")
def test_any_parameter_is_taken_or_refused_with_a_sentence(planning, name, text):
    try:
        plan = runner.plan("laptop", "b", parameters.parse_overrides([f"{name}={text}"]))
    except UserError as error:
        assert str(error) and "\n" not in str(error)
        return
    types = {"n_test": int, "k": int, "n_draws": int, "speed": float, "label": str, "layers": list}
    values = [step.overrides[name] for step in plan.steps if name in step.overrides]
    assert values and all(type(value) is types[name] for value in values)
    json.dumps(values, allow_nan=False, ensure_ascii=False).encode()


def test_parameters_cell_that_papermill_cannot_read_is_refused(tmp_path):
    for line in ("a: int | None = 3", "b = 1 + 1", "c = d = 2"):
        write_notebook(tmp_path / "x.ipynb", 'run: str = "mine"\n' + line, [])
        with pytest.raises(UserError, match="one literal"):
            parameters.declared(tmp_path / "x.ipynb")


# One check for all roads --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotation", "value", "meant"),
    [
        ("bool", "false", False),
        ("bool", "True", True),
        ("int", "5", 5),
        ("float", "1e-3", 0.001),
        ("float", 2, 2.0),
        ("list", "[1]", [1]),
        ("list[str]", "['*_topk_*']", ["*_topk_*"]),
        ("list[int]", (1, 2), [1, 2]),
        ("str", "5", "5"),
        ("dict[str, int]", {"a": 1}, {"a": 1}),
        ("Optional[int]", None, None),
    ],
)
def test_what_is_given_comes_back_in_its_type(annotation, value, meant):
    found = parameters.checked({"x": Parameter("x", annotation, 0)}, {"x": value, "other": "1"})
    assert found == {"x": meant, "other": "1"} and type(found["x"]) is type(meant)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        ("bool", 1),
        ("bool", "maybe"),
        ("bool", "1"),
        ("int", True),
        ("int", 1.0),
        ("int", None),
        pytest.param("int", 10**5000, id="int-huge"),
        ("float", float("nan")),
        ("float", "..e5"),
        ("float", True),
        ("list", "1"),
        ("list", "*_topk_*"),
        ("list[int]", [1, "a"]),
        ("list[int]", [True]),
        ("str", 5),
        ("str", "\ud800"),
    ],
)
def test_what_does_not_fit_is_a_sentence_with_both_types(annotation, value):
    with pytest.raises(UserError, match=r"parameter x \(given\) must be .*, but .* is \w+") as said:
        parameters.checked({"x": Parameter("x", annotation, 0)}, {"x": value})
    assert annotation in str(said.value) and "\n" not in str(said.value)


# Files, named from where the user stands ----------------------------------------------------------


def test_a_file_is_named_from_where_the_user_stands_on_every_road(planning, tmp_path, monkeypatch):
    """-p, a parameter set, and a grid: the page, which runs elsewhere, gets a name that leads
    there.
    """
    (tmp_path / "mine.jsonl").write_text("")
    monkeypatch.chdir(tmp_path)
    notebooks = planning / "notebooks"

    def leads_there(name: str) -> bool:
        return (notebooks / name).resolve() == (tmp_path / "mine.jsonl").resolve()

    given = runner.plan("laptop", "b", {"label": "mine.jsonl"}).steps[0].parameters["label"]
    assert given != "mine.jsonl" and leads_there(given)
    path = planning / "papermill_runs/parameters/own.yaml"
    path.write_text("label: ./mine.jsonl\nnotebooks: ['00']\n")
    grid = tmp_path / "grid.yaml"
    grid.write_text("set: own\nnotebooks: ['00']\ngrid: {label: [mine.jsonl, other.jsonl]}\n")
    try:
        assert leads_there(runner.plan("own", "b").steps[0].parameters["label"])
        cells = sweeps.load(grid).cells
        plans = [sweeps.plan_of(sweeps.load(grid), cell) for cell in cells]
    finally:
        path.unlink()
    here, absent = (plan.steps[0].parameters["label"] for plan in plans)
    assert leads_there(here) and absent == "other.jsonl"


def test_a_word_that_is_no_file_stays_a_word(planning, tmp_path, monkeypatch):
    (tmp_path / "instr").mkdir()
    monkeypatch.chdir(tmp_path)
    plan = runner.plan("laptop", "b", {"label": "instr"})
    assert plan.steps[0].parameters["label"] == "instr", "a folder of that name is a coincidence"
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.jsonl").write_text("")
    home = runner.plan("laptop", "b", {"label": "~/mine.jsonl"}).steps[0].parameters["label"]
    assert (planning / "notebooks" / home).resolve() == (tmp_path / "mine.jsonl").resolve()
