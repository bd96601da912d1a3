"""pi0 goes from openpi's JAX folders to torch and to LeRobot and back, and nothing changes."""

import json
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from omegaconf import OmegaConf
from pi0_reference_arrays import REFERENCE, Case, listed_shapes, needs_reference

from xp import merge
from xp.errors import UserError
from xp.models.pi0.convert import JAX, LEROBOT, TORCH, convert, is_convertible, open_source
from xp.models.pi0.io.folder import open_step, write_step
from xp.models.pi0.io.key_map import EMBEDDING_TIED, UNUSED, joined, leaf_shapes, parts, tensor_shapes
from xp.models.pi0.io.norm_stats import NormStats, Stats
from xp.models.pi0.io.notes import Notes
from xp.models.pi0.io.torch_folder import is_lerobot_pi0, is_openpi_torch, open_torch
from xp.models.pi0.network.sizes import ExpertSizes, Sizes, VisionSizes, sizes_from_shapes, weight_shapes
from xp.runs import Record, Run
from xp.runs.execution.signals import RunInterrupted
from xp.tasks import convert as task_convert

EXPERT = {"depth": 2, "head_dim": 4, "heads": 8}
SIZES = {
    kind: Sizes(
        vision=VisionSizes(width=12, depth=3, mlp=20, heads=2, patch=2, tokens=16),
        language=ExpertSizes(width=16, mlp=24, **EXPERT),
        action=ExpertSizes(width=10, mlp=14, **EXPERT),
        vocabulary=300,
        action_dim=6,
        is_pi05=kind == "pi05",
    )
    for kind in ("pi05", "pi0")
}


def leaves(sizes, seed=0, dtype=np.float32):
    """Every weight of a model of some sizes, drawn."""
    rng = np.random.default_rng(seed)
    shapes = weight_shapes(sizes)
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


def stats(width, seed, quantiles=True):
    rng = np.random.default_rng(seed)
    mean, std = rng.standard_normal(width), rng.uniform(0.5, 2, width)
    sides = {"q01": mean - 2 * std, "q99": mean + 2 * std} if quantiles else {}
    return Stats(mean=mean, std=std, **sides)


NOTES = Notes(
    horizon=5, action_dim=4, state_dim=3, cameras={"base_0_rgb": "top"}, sizes={"base_0_rgb": (9, 12)},
    asset_id="lab/arm", tokenizer="words", prompt_length=20, vision_heads=2, absolute=(3,),
)  # fmt: skip


def saved(folder, kind="pi05", seed=0, dtype=np.float32):
    statistics = NormStats(state=stats(3, 1), actions=stats(4, 2, quantiles=kind == "pi05"))
    write_step(folder, 7, leaves(SIZES[kind], seed, dtype), {NOTES.asset_id: statistics}, NOTES, None)
    return folder


def converted(source, to, output, **options):
    return convert(open_source(source, None, options), to, output)


def same(one: Path, other: Path) -> None:
    """Two JAX folders hold the same weights, statistics and notes."""
    first, second = open_step(one), open_step(other)
    assert list(first.leaves) and set(first.leaves) == set(second.leaves)
    for name, leaf in first.leaves.items():
        assert second.leaves[name] == leaf
        np.testing.assert_array_equal(second.read(name), first.read(name))
    assert second.statistics(None)[0].content() == first.statistics(None)[0].content()
    assert second.notes == first.notes


@pytest.mark.parametrize("kind", ["pi05", "pi0"])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_there_and_back_through_every_format_changes_nothing(tmp_path, kind, dtype):
    jax = saved(tmp_path / "jax", kind, dtype=dtype)
    torch = converted(jax, TORCH, tmp_path / "torch")
    robot = converted(jax, LEROBOT, tmp_path / "lerobot")
    assert is_openpi_torch(torch) and is_lerobot_pi0(robot) and all(map(is_convertible, (jax, torch, robot)))
    same(jax, converted(torch, JAX, tmp_path / "1"))
    same(jax, converted(robot, JAX, tmp_path / "2"))
    again = converted(converted(robot, TORCH, tmp_path / "3"), LEROBOT, tmp_path / "4")
    for name in ("model.safetensors", "config.json", "policy_preprocessor.json"):
        assert (again / name).read_bytes() == (robot / name).read_bytes()


@pytest.mark.parametrize("kind", ["pi05", "pi0"])
def test_real_sizes_are_those_of_both_ports(kind):
    shapes = listed_shapes(f"{kind}_full.param_tree.json")
    tensors = tensor_shapes(shapes)
    assert leaf_shapes(tensors, None, kind) == shapes == weight_shapes(sizes_from_shapes(shapes, kind))
    for file, prefix in (("torch", ""), ("lerobot061", "model.")):
        listed = listed_shapes(f"{kind}_full.{file}_state_dict.json")
        assert listed.pop(prefix + EMBEDDING_TIED) == (257_152, 2048)
        assert {prefix + name: shape for name, shape in tensors.items()} == listed


def test_openpis_own_conversion_is_ours():
    case = Case("pi05")
    found = open_torch(REFERENCE / "torch_pi05", vision_heads=2)
    assert found.shapes == {name: case.flat[name].shape for name in found.shapes} and len(found.shapes) == 51
    for part in parts(found.shapes):
        wanted = case.flat[part.leaf] if part.layer is None else case.flat[part.leaf][part.layer]
        tensors = {name: found.tensor(name) for name in part.tensors}
        np.testing.assert_array_equal(joined(part, tensors, wanted.shape), wanted)
        for name, tensor in zip(part.tensors, part.way.split(wanted)):
            np.testing.assert_array_equal(tensors[name], tensor)


def test_openpis_checkpoint_goes_there_and_back(tmp_path):
    needs_reference()
    source = REFERENCE / "ckpt_pi05_orbax0.11.13"
    robot = converted(source, LEROBOT, tmp_path / "lerobot", horizon="10")
    back = open_step(converted(robot, JAX, tmp_path / "jax", vision_heads="2"))
    for name, wanted in Case("pi05").flat.items():
        np.testing.assert_array_equal(back.read(name), wanted)
    assert back.statistics(None)[1] == "tiny/robot"
    assert back.statistics(None)[0].content() == open_step(source).statistics(None)[0].content()


def test_merging_then_converting_is_converting_then_merging(tmp_path):
    folders = [saved(tmp_path / f"jax{seed}", seed=seed) for seed in range(3)]
    merged = merge(folders, "linear", output=tmp_path / "merged", weights=[0.5, 0.3, 0.2]).path
    one = open_torch(converted(merged, TORCH, tmp_path / "one"))
    torch = [converted(folder, TORCH, tmp_path / f"torch{n}") for n, folder in enumerate(folders)]
    other = open_torch(merge(torch, "linear", output=tmp_path / "other", weights=[0.5, 0.3, 0.2]).path)
    assert set(one.leaves) == set(other.leaves)
    for name in one.leaves:
        np.testing.assert_allclose(one.tensor(name), other.tensor(name), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("to", ["openpi_torch", "openpi_jax"])
def test_asked_to_stop_it_leaves_between_pieces_and_writes_nothing(tmp_path, to):
    asked = {"checkpoint": str(saved(tmp_path / "saved")), "to": to, "output": None, "overwrite": False, "dtype": None}
    config = OmegaConf.create({"convert": {**asked, "load_options": None, "check": "none"}})
    folder, asks = tmp_path / "run", []
    folder.mkdir()
    record = Record(folder / "record.json", {})
    run = Run(folder, config, record, should_stop=lambda: asks.append(0) or len(asks) > 2, echo=False)
    with pytest.raises(RunInterrupted):
        task_convert.run(run)
    assert len(asks) in (3, 4), "the other thread may be between pieces too"
    assert [path.name for path in folder.iterdir() if path.name != "progress.json"] == []


def test_low_rank_updates_are_folded(tmp_path):
    needs_reference()
    case = Case("pi05_lora")
    wide = NormStats(state=stats(8, 1), actions=stats(8, 2))
    notes = Notes(**{**vars(NOTES), "action_dim": 8, "state_dim": 8, "absolute": None})
    write_step(tmp_path / "jax", 0, case.flat, {notes.asset_id: wide}, notes, None)
    found = open_torch(converted(tmp_path / "jax", TORCH, tmp_path / "torch"))
    assert len(found.shapes) == 51 and not any("lora" in name for name in found.leaves)
    folded = open_step(tmp_path / "jax", fold=True)
    name = "PaliGemma/llm/layers/attn/attn_vec_einsum/w"
    plain = case.flat[name][1]
    turned = found.tensor("paligemma_with_expert.paligemma.model.language_model.layers.1.self_attn.o_proj.weight")
    assert np.abs(turned.T.reshape(plain.shape) - plain).max() > 1e-4
    np.testing.assert_array_equal(turned.T.reshape(plain.shape), folded.read(name)[1])


def change(folder: Path, file: str, do) -> None:
    content = json.loads((folder / file).read_text())
    do(content)
    (folder / file).write_text(json.dumps(content))


@pytest.fixture(scope="module")
def torch_saved(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("torch")
    return converted(saved(place / "jax"), TORCH, place / "torch")


def rewritten(folder: Path, do) -> None:
    """Write the tensors of a folder again after `do` changed them."""
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    do(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("do", "said"),
    [
        (lambda t: t.pop("time_mlp_in.bias"), "they lack time_mlp_in.bias"),
        (lambda t: t.update({"paligemma_with_expert.gemma_expert.model.norm.weight": np.zeros(10, np.float32)}),
            "have no place for paligemma_with_expert.gemma_expert.model.norm.weight"),
        (lambda t: t.update(extra=np.zeros(2, np.float32)), "have no place for extra"),
        (lambda t: t.update({"action_in_proj.bias": np.zeros(3, np.float32)}), "another shape of action_in_proj.bias"),
        (lambda t: t.update({EMBEDDING_TIED: np.zeros((300, 16), np.float32)}), "two tables of text that differ"),
        (lambda t: t.update({"action_in_proj.bias": np.zeros(10, np.int8)}), "as quantised"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_refused_by_name(torch_saved, tmp_path, do, said):
    copy = Path(shutil.copytree(torch_saved, tmp_path / "copy"))
    rewritten(copy, do)
    with pytest.raises(UserError, match=said):
        open_source(copy, None, {})


def test_a_table_that_stands_twice_and_no_unused_matrix_are_taken(torch_saved, tmp_path):
    copy = Path(shutil.copytree(torch_saved, tmp_path / "copy"))

    def twice(tensors):
        from xp.models.pi0.io.key_map import EMBEDDING

        tensors[EMBEDDING_TIED] = tensors[EMBEDDING].copy()
        del tensors[UNUSED]

    rewritten(copy, twice)
    same(converted(copy, JAX, tmp_path / "1"), converted(torch_saved, JAX, tmp_path / "2"))


@pytest.mark.parametrize("to", [JAX, TORCH, LEROBOT])
def test_progress_ends_at_the_size_of_all_weights(torch_saved, tmp_path, to):
    for number, folder in enumerate((torch_saved, saved(tmp_path / "jax"))):
        told: list[int] = []
        source = open_source(folder, None, {})
        convert(source, to, tmp_path / str(number), advance=told.append)
        assert sum(told) == source.nbytes


def test_heads_that_nothing_tells_are_asked_for(torch_saved, tmp_path):
    copy = Path(shutil.copytree(torch_saved, tmp_path / "copy"))
    change(copy, "xp_pi0.json", lambda content: content.update(vision_heads=None))
    with pytest.raises(UserError, match="a width of 12, and nothing says how many attention heads.*vision_heads=N"):
        open_source(copy, None, {})
    assert open_source(copy, None, {"vision_heads": "2"}).sizes.vision.heads == 2


def test_statistics_that_were_changed_on_one_side_are_refused(tmp_path):
    robot = converted(saved(tmp_path / "jax"), LEROBOT, tmp_path / "lerobot")

    def moved(content):
        content["norm_stats"]["actions"]["q99"][0] += 0.5

    change(robot, "assets/lab/arm/norm_stats.json", moved)
    with pytest.raises(UserError, match="two statistics of 'actions' that differ in q99"):
        open_source(robot, None, {})
    shutil.rmtree(robot / "assets")
    assert open_source(robot, None, {}).interface.statistics.actions.width == 4


def test_a_leaf_that_is_missing_is_named(tmp_path):
    folder = saved(tmp_path / "jax")

    def drop(content):
        key = next(key for key in content["tree_metadata"] if "final_norm_1" in key and "bias" in key)
        del content["tree_metadata"][key]

    change(folder / "7/params", "_METADATA", drop)
    with pytest.raises(UserError, match="lacks PaliGemma/llm/final_norm_1/Dense_0/bias"):
        open_source(folder, None, {})


def test_lerobot_reads_the_configuration_and_the_processors(tmp_path):
    """But for the sizes, which LeRobot has names for only at its own."""
    import draccus
    from lerobot.policies.pi05.configuration_pi05 import PI05Config
    from lerobot.processor import PolicyProcessorPipeline

    robot = converted(saved(tmp_path / "jax"), LEROBOT, tmp_path / "lerobot")
    content = json.loads((robot / "config.json").read_text())
    assert content.pop("type") == "pi05"
    named = {"paligemma_variant": "gemma_2b", "action_expert_variant": "gemma_300m"}
    config = draccus.decode(PI05Config, {**content, **named})
    assert config.chunk_size == 5 and config.max_action_dim == 6 and config.relative_exclude_joints == ["dim_03"]
    after = PolicyProcessorPipeline.from_pretrained(robot, config_filename="policy_postprocessor.json")
    assert [type(step).__name__ for step in after.steps] == [
        "UnnormalizerProcessorStep", "AbsoluteActionsProcessorStep", "DeviceProcessorStep"
    ]  # fmt: skip
    written = json.loads((robot / "policy_preprocessor.json").read_text())
    names = [step["registry_name"] for step in written["steps"]]
    assert names[2:6] == [
        "relative_actions_processor", "normalizer_processor", "pi05_prepare_state_tokenizer_processor_step",
        "tokenizer_processor",
    ]  # fmt: skip
