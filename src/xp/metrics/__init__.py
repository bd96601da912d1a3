"""Errors of predicted actions, the baselines they must beat, calibration, and intervals. Pure numpy and scipy."""

from xp.metrics.actions import direction_accuracy as direction_accuracy
from xp.metrics.actions import gripper_accuracy as gripper_accuracy
from xp.metrics.actions import mae as mae
from xp.metrics.actions import mse as mse
from xp.metrics.actions import normalise as normalise
from xp.metrics.actions import per_dimension as per_dimension
from xp.metrics.actions import per_step as per_step
from xp.metrics.baselines import first_frame_rule as first_frame_rule
from xp.metrics.baselines import held_actions as held_actions
from xp.metrics.baselines import hold_last as hold_last
from xp.metrics.baselines import mean_action as mean_action
from xp.metrics.baselines import zero_action as zero_action
from xp.metrics.density import calibration as calibration
from xp.metrics.density import energy_score as energy_score
from xp.metrics.density import gaussian_nll as gaussian_nll
from xp.metrics.horizon import extend as extend
from xp.metrics.horizon import join_answers as join_answers
from xp.metrics.horizon import requery_frames as requery_frames
from xp.metrics.intervals import bootstrap as bootstrap
from xp.metrics.intervals import paired_difference as paired_difference
from xp.metrics.intervals import sum_by_episode as sum_by_episode
from xp.metrics.intervals import wilson as wilson
from xp.metrics.success import success_metrics as success_metrics
from xp.metrics.summary import prediction_metrics as prediction_metrics
