"""No value becomes another line or option of a batch script, and no option changes what the launcher relies on."""

import shlex
import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hydra_plugins.xp_slurm_launcher._arrays import Array
from hydra_plugins.xp_slurm_launcher._executor import SlurmExecutor
from hydra_plugins.xp_slurm_launcher._job_specs import safe
from hydra_plugins.xp_slurm_launcher._options import extra_options
from hydra_plugins.xp_slurm_launcher._resources import Resources
from hydra_plugins.xp_slurm_launcher._script import batch_script, driver_script
from xp.errors import UserError
from xp.runs.executors.protocol import Submission

NASTY = st.one_of(
    st.text(max_size=30),
    st.text(st.sampled_from("ab \n\r\t\0\"'`$()#\\-=%;&|<>*?~\x0b\x0c\x1b\u2028"), max_size=30),
    st.sampled_from(
        ["x\n#SBATCH --array=0-99", "x\r#SBATCH --nodes=9", "$(touch /tmp/x)", "`id`", "-p other", "--wrap=id", "a b",
         "it's", 'say "no"', "a\\", "#", "x #SBATCH --nodes=2", "x\x0b#SBATCH --nodes=2", "\ud800", "", " "],
    ),
)  # fmt: skip


def script(resources: Resources, folder: str = "/e", **changes) -> str:
    array = Array((Submission(folder=Path(folder) / "a"), Submission(folder=Path(folder) / "b")), resources)
    job_spec = Path(folder) / ".slurm" / "xp-a-12345678.json"
    options = {"name": "xp-a-12345678", "dependency": None, "warn_s": 60, "max_running": None, "python": None}
    return batch_script(array, job_spec, **{**options, **changes})


def options(text: str) -> dict[str, str | bool]:
    """What sbatch reads: #SBATCH lines up to the first command, each one word of the shell."""
    found = {}
    for line in text.split("\n"):
        if line.startswith("#SBATCH "):
            (word,) = shlex.split(line.removeprefix("#SBATCH "))
            name, equals, value = word.partition("=")
            assert name not in found
            found[name] = value if equals else True
        elif line.strip() and not line.startswith("#"):
            return found
    return found


PLAIN = set(options(script(Resources())))


@settings(max_examples=150, deadline=None)
@given(key=st.sampled_from(["partition", "account", "qos", "constraint"]), value=NASTY)
def test_a_name_is_refused_or_stands_as_it_is_in_its_own_option(key, value):
    try:
        made = Resources().with_({key: value}, "hydra.launcher")
    except UserError as refused:
        assert "\n" not in str(refused) and f"hydra.launcher.{key}" in str(refused)
        return
    found = options(script(made))
    assert found[f"--{key}"] == value and set(found) == PLAIN | {f"--{key}"}


@settings(max_examples=150, deadline=None)
@given(
    key=st.one_of(st.sampled_from(["comment", "mail_user", "exclude", "gres"]), st.text(string.printable, max_size=12)),
    value=NASTY,
)
def test_an_extra_option_is_refused_or_stands_as_it_is_in_its_own_line(key, value):
    try:
        made = Resources().with_({"extra": {key: value}}, "hydra.launcher")
    except UserError as refused:
        assert "\n" not in str(refused)
        return
    found = options(script(made))
    name = "--" + key.replace("_", "-")
    assert found[name] == value and set(found) == PLAIN | {name}


@settings(max_examples=100, deadline=None)
@given(value=NASTY)
def test_an_interpreter_and_a_folder_are_one_word_of_the_shell_or_refused(value):
    for changes in ({"python": value}, {"folder": "/" + value}):
        try:
            text = script(Resources(), **changes)
        except UserError as refused:
            assert "\n" not in str(refused)
            continue
        assert set(options(text)) == PLAIN
        (step,) = [line for line in text.split("\n") if line.startswith("srun ")]
        words = shlex.split(step)
        assert words[-5:-2] == ["-u", "-m", "hydra_plugins.xp_slurm_launcher._job"] and words[-2] == "run"
        if "python" in changes:
            assert words[-6] == value


@settings(max_examples=100, deadline=None)
@given(stage=NASTY)
def test_a_stages_name_is_harmless_in_a_queue_a_file_and_a_script(stage):
    assert set(safe(stage)) <= set(string.ascii_letters + string.digits + "_.-") and len(safe(stage)) <= 40


def test_a_set_up_line_that_looks_like_an_option_is_none():
    made = Resources().with_({"setup": ["#SBATCH --nodes=9", "module load x"]}, "hydra.launcher")
    assert set(options(script(made))) == PLAIN and "--nodes=9" not in options(script(made)).values()
    text = driver_script(Array((Submission(folder=Path("/e/a")),), made), Path("/e/.slurm"), name="n", python=None,
                         begin="now+5")  # fmt: skip
    assert "--nodes" not in str([value for value in options(text).values() if value == "9"])


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"nodes": 2}, "hydra.launcher.extra.nodes=2: --nodes is not for users here: a job is one process on one node"),
        ({"ntasks": 2}, "a job is one process"),
        ({"ntasks-per-node": 4}, "a job is one process"),
        ({"array": "0-9"}, "hydra.launcher.max_running=N"),
        ({"wrap": "id"}, "hydra.launcher.setup"),
        ({"output": "/x"}, "--output is not for users here: the launcher sets it itself"),
        ({"error": "/x"}, "sets it itself"),
        ({"job_name": "x"}, "sets it itself"),
        ({"dependency": "afterok:1"}, "from the stages' needs"),
        ({"signal": "USR1@5"}, "hydra.launcher.warn_s=SECONDS"),
        ({"export": "NONE"}, "hydra.launcher.setup=[export NAME=VALUE]"),
        ({"no-requeue": True}, "hydra.launcher.max_requeues=N"),
        ({"parsable": True}, "sets it itself"),
        ({"chdir": "/x"}, "jobs run where the command was typed"),
        ({"clusters": "other"}, "log in to the cluster"),
        ({"partition": "x"}, "this is hydra.launcher.partition='x'"),
        ({"cpus_per_task": 4}, "this is hydra.launcher.cpus=4"),
        ({"gpus_per_node": 4}, "this is hydra.launcher.gpus=4"),
        ({"nod": 2}, "written out in full"),
        ({"N": 2}, "written out in full"),
        ({"n": 2}, "written out in full"),
        ({"outp": "x"}, "written out in full"),
        ({"--nodes": 2}, "written out in full"),
        ({"exclude": ["n1", "n2"]}, "expected one word or number"),
        ({"comment": "a\nb"}, "one line without control characters"),
    ],
)
def test_an_option_that_breaks_the_launcher_is_refused_by_name_with_what_to_type(extra, words):
    with pytest.raises(UserError) as refused:
        SlurmExecutor(extra=extra)
    assert words in str(refused.value) and "\n" not in str(refused.value)


def test_options_that_change_nothing_the_launcher_relies_on_are_taken():
    given_ = {"exclude": "n7", "exclusive": True, "nodes": 1, "mail_type": "END", "reservation": None, "hold": False,
              "some-new-option": "x"}  # fmt: skip
    assert extra_options(given_, "extra") == {
        "exclude": "n7", "exclusive": True, "nodes": "1", "mail-type": "END", "some-new-option": "x",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"mem_gb": 4, "extra": {"mem": "8G"}}, "mem_gb and extra.mem ask for the same thing"),
        ({"time_min": 4, "extra": {"time": "1:00"}}, "time_min and extra.time"),
        ({"gpus": "two"}, "TYPE:NUMBER"),
        ({"gpus": "a100:2\n#SBATCH --nodes=2"}, "one line"),
        ({"mem_gb": float("nan")}, "a number of gigabytes"),
        ({"mem_gb": float("inf")}, "a number of gigabytes"),
        ({"time_min": 1.5}, "a number of at least 1"),
        ({"cpus": 10**30}, "SLURM counts to"),
        ({"max_running": 0}, "hydra.launcher.max_running=0: expected a whole number of at least 1"),
        ({"retries": -1}, "hydra.launcher.retries=-1: expected a whole number of at least 0"),
        ({"setup": {"a": 1}}, "a list of shell lines"),
        ({"partition": "-x"}, "expected a name"),
        ({"array_parallelism": 3}, "it is called max_running here"),
        ({"timeout_min": 3}, "it is called time_min here"),
        ({"extra": "exclude"}, "expected {OPTION: VALUE}"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused_by_name(asked, words):
    with pytest.raises(UserError) as refused:
        SlurmExecutor(**asked)
    assert words in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("folder", ["/data/100%/runs", "/data/a\\b"])
def test_a_folder_that_slurm_reads_as_a_pattern_is_refused(folder):
    with pytest.raises(UserError, match="hydra.sweep.dir"):
        script(Resources(), folder=folder)
