"""Three ways to ask for actions: after a prefix, step by step, and as LeRobot's real-time-chunking engine does."""

import pytest
import torch
from lerobot.policies.rtc import ActionQueue
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from lerobot.rollout.inference.rtc import _normalize_prev_actions_length, supports_rtc_inference
from smooth_made_up import ACTION_DIM, make_batch, make_policy

from lerobot_policy_act_smooth_xp.modeling_act_smooth import HOLD

LAST = {"relative_actions": True, "relative_anchor": "last_prefix"}


def observe(policy, seed, size=1):
    batch = make_batch(policy, size=size, seed=seed)
    return {name: value for name, value in batch.items() if name.startswith("observation")}


@pytest.fixture
def calls(monkeypatch):
    """Every (committed, past, chunk) that a policy was asked for with `continue_prefix`."""
    made = []

    def watched(policy):
        plain = policy.continue_prefix

        def record(batch, future, past=None):
            made.append((future, past, plain(batch, future, past)))
            return made[-1][-1]

        monkeypatch.setattr(policy, "continue_prefix", record)
        return made

    return watched


class TestSelectAction:
    @pytest.mark.parametrize("size", [1, 3])
    def test_every_prediction_is_told_what_was_executed_and_what_comes_next(self, calls, size):
        policy = make_policy()
        made = calls(policy)
        executed = torch.stack([policy.select_action(observe(policy, step, size)) for step in range(23)], dim=1)
        n, k = policy.config.n_action_steps, policy.config.length_prefix_past
        assert len(made) == 6
        for i, (committed, past, chunk) in enumerate(made):
            now = i * n
            assert torch.equal(committed, executed[:, now : now + 1])
            assert past is None if i == 0 else torch.equal(past, executed[:, now - k : now])
            expected = executed[:, now + 1 : now + 1 + n]
            assert torch.equal(chunk[:, : expected.shape[1]], expected)

    def test_an_episode_begins_by_holding_still(self):
        policy = make_policy()
        batch = observe(policy, 0)
        assert torch.equal(policy.select_action(batch), batch["observation.state"])
        policy.reset()
        hold = torch.full((1, ACTION_DIM), 0.25)
        assert torch.equal(policy.select_action(batch | {HOLD: hold}), hold)

    def test_where_states_are_no_actions_it_begins_with_a_prediction(self, calls):
        policy = make_policy(state=ACTION_DIM + 2)
        made = calls(policy)
        first = policy.select_action(observe(policy, 0))
        assert torch.equal(first, made[0][2][:, 0])

    def test_a_training_may_go_on_after_it(self):
        """D = 1: inference and training have one mask, which inference made first."""
        policy = make_policy(length_prefix_future=1, chunk_size=7, length_prefix_past=0)
        with torch.inference_mode():
            policy.select_action(observe(policy, 0))
        policy.train()
        policy(make_batch(policy))[0].backward()

    def test_reset_forgets(self):
        policy = make_policy()
        first = [policy.select_action(observe(policy, step)) for step in range(9)]
        policy.reset()
        again = [policy.select_action(observe(policy, step)) for step in range(9)]
        assert all(torch.equal(a, b) for a, b in zip(first, again))

    def test_without_increments_last_prefix_stands_still(self):
        policy = make_policy(**LAST)
        with torch.no_grad():
            policy.model.action_head.weight.zero_()
            policy.model.action_head.bias.copy_(-policy.action_delta_mean / policy.action_delta_std)
        actions = torch.stack([policy.select_action(observe(policy, step)) for step in range(30)])
        assert torch.allclose(actions, actions[:1].expand_as(actions), atol=1e-5)


class TestRealTimeChunking:
    def run(self, policy, delays, *, horizon=5, threshold=3, told=None):
        """LeRobot's queue, driven as its engine drives it, with a delay of so many steps in each inference."""
        queue = ActionQueue(RTCConfig(enabled=True, execution_horizon=horizon))
        executed = []

        def execute(steps):
            for _ in range(steps):
                action = queue.get()
                executed.append(executed[-1] if action is None else action)

        starts = []
        for i, delay in enumerate(delays):
            while queue.qsize() > threshold:
                execute(1)
            place, left_over = queue.get_action_index(), queue.get_left_over()
            if left_over is not None:
                left_over = _normalize_prev_actions_length(left_over, horizon)
            chunk = policy.predict_action_chunk(
                observe(policy, i), inference_delay=delay if told is None else told, prev_chunk_left_over=left_over
            )[0]
            starts.append(len(executed))
            if left_over is not None:
                execute(delay)
            queue.merge(chunk, chunk, delay if left_over is not None else 0, place)
        execute(queue.qsize())
        return torch.stack(executed), starts

    def test_lerobot_accepts_it(self):
        assert supports_rtc_inference(make_policy())

    @pytest.mark.parametrize("horizon", [2, 5, 20], ids=lambda h: f"left-over of {h} rows")
    def test_what_the_policy_takes_for_committed_and_past_is_what_the_robot_executes(self, calls, horizon):
        policy = make_policy(**LAST)
        made = calls(policy)
        delays = [0, 1, 2, 3, 2, 0, 3, 1]
        executed, starts = self.run(policy, delays, horizon=horizon)
        k = policy.config.length_prefix_past
        for (committed, past, chunk), start, delay in zip(made, starts, delays):
            d = committed.shape[1]
            assert d == max(1, delay)
            assert torch.equal(committed[0], executed[start : start + d])
            assert past is None if start == 0 else torch.equal(past[0], executed[max(0, start - k) : start])
            following = executed[start + d : start + d + 1]
            assert torch.equal(chunk[0, : len(following)], following)

    def test_a_starved_robot_holds_its_last_action_and_goes_on_from_there(self, calls):
        policy = make_policy(**LAST)
        made = calls(policy)
        executed, starts = self.run(policy, [0, 3, 1], threshold=0)
        for (committed, _, _), start in list(zip(made, starts))[1:]:
            assert committed.shape[1] == 1
            assert torch.equal(committed[0, 0], executed[start - 1])

    def test_a_delay_beyond_the_trained_ones_is_cut_and_said_once(self, calls, caplog):
        policy = make_policy()
        made = calls(policy)
        self.run(policy, [0, 2, 2], told=9)
        assert [committed.shape[1] for committed, _, _ in made] == [1, 3, 3]
        assert [record.message for record in caplog.records if "length_prefix_future=9" in record.message] != []
        assert sum("exceeds length_prefix_future" in record.message for record in caplog.records) == 1

    def test_left_over_rows_from_elsewhere_are_taken_as_they_are(self, calls):
        policy = make_policy()
        made = calls(policy)
        rows = torch.zeros(6, ACTION_DIM)
        rows[:2] = 1.5
        policy.predict_action_chunk(observe(policy, 0), inference_delay=3, prev_chunk_left_over=rows)
        assert torch.equal(made[0][0], rows[None, :2]) and made[0][1] is None

    def test_without_a_plan_it_holds_still(self):
        policy = make_policy()
        batch = observe(policy, 0)
        chunk = policy.predict_action_chunk(batch)
        assert torch.equal(chunk[:, 0], batch["observation.state"])
        assert chunk.shape == (1, 1 + policy.config.chunk_size, ACTION_DIM)


class TestBadPrefixes:
    @pytest.mark.parametrize("d", [0, 4])
    def test_more_or_fewer_committed_actions_than_trained(self, d):
        policy = make_policy()
        with pytest.raises(ValueError, match="takes 1 to 3"):
            policy.continue_prefix(observe(policy, 0), torch.zeros(1, d, ACTION_DIM))

    def test_action_dimensions(self):
        policy = make_policy()
        with pytest.raises(ValueError, match="has 3 action dimensions; given 4"):
            policy.continue_prefix(observe(policy, 0), torch.zeros(1, 1, 4))
        with pytest.raises(ValueError, match=r"Past actions have the shape \[1, k, 3\]"):
            policy.continue_prefix(observe(policy, 0), torch.zeros(1, 1, 3), torch.zeros(1, 2, 2))

    def test_training_windows_of_another_length_or_width(self):
        policy = make_policy()
        batch = make_batch(policy)
        for actions in (batch["action"][:, 1:], batch["action"][..., :2]):
            with pytest.raises(ValueError, match=r"action must be \[B, 11, 3\]"):
                policy(batch | {"action": actions})

    def test_a_hand_made_prefix_of_another_length(self):
        policy = make_policy()
        prefix = {"inference_action": torch.zeros(1, 3, 3), "inference_action_is_pad": torch.zeros(1, 3)}
        with pytest.raises(ValueError, match=r"must be \[B, 5, 3\]"):
            policy.predict_action_chunk(observe(policy, 0) | prefix)

    def test_more_past_actions_than_slots_are_cut_to_the_last(self):
        policy = make_policy()
        future, past = torch.randn(1, 1, ACTION_DIM), torch.randn(1, 7, ACTION_DIM)
        long, short = (policy.continue_prefix(observe(policy, 0), future, rows) for rows in (past, past[:, -2:]))
        assert torch.equal(long, short)
