"""The queue and its leases, exactly: no clock, no thread, no network."""

from pathlib import Path

import pytest

from hydra_plugins.xp_ssh_launcher._lease_queue import MOVES, AttemptOutcome, LeaseQueue, NodeCapacity, lost_hosts
from xp.runs.executors.protocol import JobState, Submission

A, B, C = Path("/x/a"), Path("/x/b"), Path("/x/c")


def job(folder, *needs, **resources):
    return Submission(folder=folder, needs=needs, resources={"task": "train", **resources})


def lease_queue(*jobs, **options):
    made = LeaseQueue(**options)
    made.add(jobs)
    return made


def capacity(name="one", **fields):
    return NodeCapacity(name=name, **fields)


def taken(book, name="one", **fields):
    found = book.take(capacity(name, **fields))
    return None if found is None else (found[0].folder, found[1])


def test_a_host_that_asks_gets_the_first_ready_job_and_no_job_has_two_leases():
    book = lease_queue(job(A), job(B), job(C, A))
    assert [taken(book, host) for host in ("one", "two", "one")] == [(A, 1), (B, 1), None]
    assert book.of("one") == {A: 1} and book.of("two") == {B: 1}
    assert book.end(A, 1, AttemptOutcome.DONE) is JobState.DONE
    assert taken(book, "two") == (C, 1)


def test_twenty_jobs_on_a_fast_and_a_slow_host_leave_none_waiting_behind_the_slow_one():
    folders = [Path(f"/x/{number}") for number in range(20)]
    book = lease_queue(*map(job, folders))
    free_at, ran = {"fast": 0, "slow": 0}, {"fast": 0, "slow": 0}
    while not book.queue.finished:
        host = min(free_at, key=lambda name: (free_at[name], name))
        for folder, attempt in book.of(host).items():
            book.end(folder, attempt, AttemptOutcome.DONE)
        if taken(book, host):
            free_at[host] += {"fast": 1, "slow": 5}[host]
            ran[host] += 1
        else:
            free_at[host] = max(free_at.values()) + 1
    assert ran == {"fast": 17, "slow": 3} or ran == {"fast": 16, "slow": 4}


def test_what_an_attempt_without_lease_reports_is_discarded():
    book = lease_queue(job(A))
    assert taken(book, "one") == (A, 1)
    book.lose(A)
    assert book.fences == {"one": {A: 1}} and taken(book, "two") is None
    book.give_up("one")
    assert taken(book, "two") == (A, 2)
    assert book.end(A, 1, AttemptOutcome.DONE) is None and book.end(A, 1, AttemptOutcome.FAILED) is None
    assert book.queue.states[A] is JobState.RUNNING
    assert book.end(A, 2, AttemptOutcome.DONE) is JobState.DONE and book.end(A, 2, AttemptOutcome.FAILED) is None


def test_a_host_that_comes_back_gets_no_job_that_is_still_to_be_ended_there():
    book = lease_queue(job(A))
    taken(book, "one")
    book.lose(A)
    assert taken(book, "one") is None
    book.fenced("one", A)
    assert book.fences == {} and taken(book, "one") == (A, 2)


def test_a_killed_job_is_tried_again_and_then_counts_as_failed_with_what_needs_it():
    book = lease_queue(job(A), job(B, A), retries=2)
    states = []
    for attempt in (1, 2, 3):
        assert taken(book) == (A, attempt)
        states.append(book.end(A, attempt, AttemptOutcome.DIED))
    assert states == [JobState.WAITING, JobState.WAITING, JobState.FAILED]
    assert book.queue.states[B] is JobState.BLOCKED and book.queue.finished


def test_a_failed_job_is_not_tried_again():
    book = lease_queue(job(A))
    taken(book)
    assert book.end(A, 1, AttemptOutcome.FAILED) is JobState.FAILED and taken(book) is None


def test_a_job_leaves_a_full_host_and_does_not_wander_for_ever():
    book = lease_queue(job(A))
    for attempt in range(1, MOVES + 2):
        host = f"host{attempt}"
        assert taken(book, host) == (A, attempt)
        state = book.end(A, attempt, AttemptOutcome.DISPLACED)
        book.fenced(host, A)
        assert taken(book, host) is None
    assert state is JobState.FAILED


def test_a_host_with_room_again_may_take_back_what_left_it():
    book = lease_queue(job(A))
    taken(book)
    book.end(A, 1, AttemptOutcome.DISPLACED)
    book.fenced("one", A)
    book.clear_avoid("one")
    assert taken(book) == (A, 2)


@pytest.mark.parametrize(
    ("wanted", "has", "fits"),
    [
        ({}, {}, True),
        ({"tags": ["big"]}, {}, False),
        ({"tags": ["big"]}, {"tags": frozenset({"big", "new"})}, True),
        ({"tags": ["one"]}, {}, True),
        ({"gpus": 1}, {}, False),
        ({"gpus": 0}, {}, True),
        ({}, {"gpus": True, "slots": 2, "free": 0}, False),
        ({"gpus": 2}, {"gpus": True, "slots": 2, "free": 1}, False),
        ({"gpus": 2}, {"gpus": True, "slots": 2, "free": 2}, True),
    ],
)
def test_a_job_goes_where_its_tags_and_gpus_are(wanted, has, fits):
    assert (taken(lease_queue(job(A, **wanted)), **has) is not None) is fits


def test_tasks_that_one_machine_keeps_for_itself_run_there_and_nothing_else_does():
    book = lease_queue(job(A), job(B, task="report"), claimed=frozenset({"report"}))
    assert taken(book, "here", tasks=frozenset({"report"})) == (B, 1)
    assert taken(book, "here", tasks=frozenset({"report"})) is None and taken(book) == (A, 1)


def test_a_job_that_fits_no_host_is_known_to_be_hopeless_even_while_all_are_at_work():
    book = lease_queue(job(A), job(B, gpus=4), job(C, tags=["big"]))
    hosts = [capacity("one", gpus=True, slots=2, free=0), capacity("two", tags=frozenset({"big"}), free=0)]
    assert book.unschedulable(hosts) == [B]


def test_jobs_asked_to_leave_are_not_tried_again_and_those_that_wait_do_not_start():
    book = lease_queue(job(A), job(B))
    taken(book)
    assert [(folder, lease.host) for folder, lease in book.stop()] == [(A, "one")]
    assert book.end(A, 1, AttemptOutcome.DIED) is JobState.INTERRUPTED and book.queue.states[B] is JobState.INTERRUPTED


def test_a_later_keeper_goes_on_from_the_papers():
    book = lease_queue(job(A), job(B), job(C, A))
    taken(book, "one")
    taken(book, "two")
    book.lose(B)
    book.give_up("two")
    saved = book.to_json()
    later = LeaseQueue()
    later.add([Submission(folder=f, needs=n, handle=str(f)) for f, n in ((A, ()), (B, ()), (C, (A,)))])
    later.restore(saved)
    assert later.of("one") == {A: 1} and later.fences == {"two": {B: 1}} and taken(later, "one") == (B, 2)
    assert later.queue.states[C] is JobState.WAITING


def test_a_job_whose_folder_was_written_anew_starts_anew_and_its_old_attempt_is_ended():
    book = lease_queue(job(A))
    taken(book)
    book.add([job(A)])
    assert book.fences == {"one": {A: 1}} and taken(book, "two") is None  # the first attempt may still be at work
    book.fenced("one", A)
    assert taken(book, "two") == (A, 2)
    saved = book.to_json()
    later = lease_queue(job(A))
    later.restore(saved)
    assert later.of("two") == {} and later.fences["two"] == {A: 2} and taken(later, "three") is None
    again = lease_queue(job(A))
    again.restore(later.to_json())
    assert taken(again, "three") is None
    again.give_up("two")
    assert taken(again, "three") == (A, 3) and again.fences["two"] == {A: 2}


def test_a_running_job_that_is_submitted_again_with_its_handle_is_left_alone():
    book = lease_queue(job(A))
    taken(book)
    book.add([Submission(folder=A, handle=str(A))])
    assert book.of("one") == {A: 1} and book.queue.states[A] is JobState.RUNNING


@pytest.mark.parametrize(
    ("silent", "lost"),
    [
        ({"one": 0, "two": 700}, ["two"]),
        ({"one": 0, "two": 500}, []),
        ({"one": 700, "two": 700}, []),
        ({"one": 700}, []),
        ({"one": 0, "two": 700, "three": 900}, ["two", "three"]),
    ],
)
def test_a_silent_host_is_lost_only_if_another_one_is_heard(silent, lost):
    assert lost_hosts(silent, 600) == lost
