"""The whole network: the trunk and its heads, and the functions on it that training and prediction call."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Unpack

from flax import linen as nn
from jaxtyping import Array, Bool, Float

from xp.models.octo.heads import ActionHead, Density
from xp.models.octo.heads.base import DrawOptions, Parts, RandomKey, Temperature
from xp.models.octo.network.tokenizers import Inputs, LanguageTokenizer, TokenGroup
from xp.models.octo.network.trunk import OctoTransformer
from xp.models.tree import branch, leaf_at


class OctoModule(nn.Module):
    """The trunk under the name `octo_transformer`, every head under `heads_<name>`."""

    octo_transformer: OctoTransformer
    heads: Mapping[str, ActionHead]

    def shallow(self) -> tuple["OctoModule", dict[str, list[str]]]:
        """This network with one layer of each kind, and which path parts stand for the layers left out.

        A T5 encoder keeps two: only its first layer owns the position bias.
        """
        trunk = self.octo_transformer
        kwargs = {**trunk.transformer_kwargs, "num_layers": 1}
        layers = range(1, int(trunk.transformer_kwargs["num_layers"]))
        copies = {"/encoderblock_0/": [f"/encoderblock_{index}/" for index in layers]}
        tokenizers = dict(trunk.task_tokenizers)
        for name, tokenizer in tokenizers.items():
            if isinstance(tokenizer, LanguageTokenizer) and tokenizer.sizes.layers > 2:
                tokenizers[name] = tokenizer.clone(sizes=replace(tokenizer.sizes, layers=2), parent=None)
                copies["/encoder/block/1/"] = [f"/encoder/block/{index}/" for index in range(2, tokenizer.sizes.layers)]
        trunk = trunk.clone(transformer_kwargs=kwargs, task_tokenizers=tokenizers, parent=None)
        return self.clone(octo_transformer=trunk, parent=None), copies

    def __call__(
        self, observations: Inputs, tasks: Inputs, real: Bool[Array, "batch history"], train: bool = False
    ) -> dict[str, object]:
        """Run everything once, which makes all weights."""
        groups = self.octo_transformer(observations, tasks, real, train=train)
        return {name: head(groups, train=train) for name, head in self.heads.items()}

    def embed(
        self, observations: Inputs, tasks: Inputs, real: Bool[Array, "batch history"], train: bool = False
    ) -> dict[str, TokenGroup]:
        """Contextual token groups of the trunk."""
        return self.octo_transformer(observations, tasks, real, train=train)

    def loss(self, inputs: Inputs, train: bool = False) -> tuple[Float[Array, ""], Parts]:
        """The objective and its parts for `{"observation", "task", "action", "action_pad_mask"}`.

        `noise` and `time` among the inputs are the draws of a head that takes some.
        """
        real = leaf_at(inputs, "observation", "timestep_pad_mask")
        groups = self._embedded(inputs, train)
        head = self.heads["action"]
        names = ("noise", "time") if head.takes_draws else ()
        fixed = {name: leaf_at(inputs, name) for name in names if name in inputs}
        actions, mask = leaf_at(inputs, "action"), leaf_at(inputs, "action_pad_mask")
        return head.loss(groups, actions, real, mask, train=train, **fixed)

    def predict(
        self, inputs: Inputs, rng: RandomKey, temperature: Temperature, **options: Unpack[DrawOptions]
    ) -> Float[Array, "*draws batch horizon action"]:
        """Normalised chunks for the last observed step; options as of `ActionHead.predict_action`."""
        return self.heads["action"].predict_action(self._embedded(inputs), rng, temperature=temperature, **options)

    def sample(
        self,
        groups: dict[str, TokenGroup],
        rng: RandomKey,
        temperature: Temperature,
        **options: Unpack[DrawOptions],
    ) -> Float[Array, "*draws batch horizon action"]:
        """The same from readouts that `embed` gave."""
        return self.heads["action"].predict_action(groups, rng, temperature=temperature, **options)

    def density(self, inputs: Inputs) -> Density | None:
        """The predictive density of every observed step, where the head has one."""
        return self.heads["action"].density(self._embedded(inputs))

    def _embedded(self, inputs: Inputs, train: bool = False) -> dict[str, TokenGroup]:
        observation = branch(inputs, "observation")
        return self.embed(observation, branch(inputs, "task"), leaf_at(observation, "timestep_pad_mask"), train)
