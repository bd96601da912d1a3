"""What `hydra/launcher=local` can be told."""

import pytest

from hydra_plugins.xp_local_launcher.executor import LocalExecutor
from xp.errors import UserError


@pytest.mark.parametrize("name", ["n_jobs", "threads"])
@pytest.mark.parametrize("value", [-1, 0, "x", 10**9, 1.5, True, float("nan")])
def test_a_number_of_workers_or_threads_that_makes_no_sense_is_refused_by_name(name, value):
    with pytest.raises(UserError, match=f"hydra.launcher.{name}=") as error:
        LocalExecutor(**{name: value})
    assert "a whole number from 1 to" in str(error.value) and repr(value) in str(error.value)


@pytest.mark.parametrize("value", [-1, "x", float("nan"), float("inf"), None])
def test_a_grace_time_that_makes_no_sense_is_refused_by_name(value):
    with pytest.raises(UserError, match="hydra.launcher.grace_s="):
        LocalExecutor(grace_s=value)
