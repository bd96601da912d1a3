"""`xp task=loop`: a policy gets better on a robot that it has never seen, by its own attempts (`loop`).

Prepare: the new robot's encoders and decoder are copied from a reference robot's, the transformer is frozen. Then, loop
by loop: collect attempts, choose among them, learn from the chosen, evaluate. What stays is the best policy so far,
where `loop.roll_back` says so.
"""

from xp.runs import Run


def run(run: Run) -> None:
    """Leaves models/initial and models/loop_01 .., loop_00/ .. (the attempts), returns.csv, figures/ and summary.json.

    Each of these appears whole, and follows from those before it and the run's seed alone; so a run that was killed
    goes on from what is there and ends as it would have.
    """
    from xp.models.torch_device import torch_threads
    from xp.tasks._lib.improvement import Improvement

    with torch_threads(run.config.loop.threads):
        improvement = Improvement.begin(run)
        for number in range(1, run.config.loop.num_improvement_loops + 1):
            improvement.collect(number)
            improvement.learn(number)
            improvement.evaluate(number)
            if improvement.has_stopped(number):
                break
        improvement.finish()
