"""Configurations: schema, composing, checks. Imported by every start of xp; loads nothing heavy."""

from xp.config.check import check as check
from xp.config.compose import compose as compose
from xp.config.compose import conf_folder as conf_folder
from xp.config.compose import open_hydra as open_hydra
from xp.config.identity_keys import IDENTITY_KEYS_BY_TASK as IDENTITY_KEYS_BY_TASK
from xp.config.identity_keys import TRANSIENT as TRANSIENT
from xp.config.identity_keys import result_config as result_config
