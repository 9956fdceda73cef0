"""The configs of the further methods: each has its method's settings, and no others."""

import pytest
import torch
from config_files import CONFIGS, changes

import threestudio_asd.systems  # noqa: F401  (registers names)
from threestudio_asd.distill import METHODS
from threestudio_asd.errors import UserError
from threestudio_asd.guidance import checks
from threestudio_asd.guidance.asd import StableDiffusionASDGuidance
from threestudio_asd.guidance.inputs.texts import wordings
from threestudio_asd.studio.config.check import check_system
from threestudio_asd.studio.config.experiment import load_config
from threestudio_asd.studio.config.files import find_config
from threestudio_asd.studio.config.structured import parse_structured

NAMES = sorted(path.stem for path in (CONFIGS / "family").glob("*.yaml"))
# Rows that have configs elsewhere.
OTHERS = {"sds", "sjc", "mvdream", "vsd", "asd", "asd-pair", "sds-bridge-first", "sdi-drawn"}
PROMPT = "system.prompt_processor.prompt=a red mug"
# What some ask the user for.
EDIT = ("system.originals=cup.png", "system.guidance.texts.reference_cond=a red cup")
MODEL = ("system.guidance.pretrained_model_name_or_path=models/own",)

A, AB = "absent", "system.guidance."
BAD, FLAWED = "normal map", "{prompt}, normal map"


def falls(steps, low=0.02):
    """Both edges of t on one schedule."""
    schedule = [0, 0.98, low, steps]
    return {f"{AB}min_step_percent": schedule, f"{AB}max_step_percent": schedule}


def adam(lr, betas=None):
    found = {"system.optimizer.name": "Adam", "system.optimizer.params.particles.lr": lr}
    return found | ({"system.optimizer.args.betas": betas} if betas else {})


CFD = [0, 0.98, 0.692, 2500, 0.404, 12500, 0.212, 25000]
CFD = {f"{AB}min_step_percent": CFD, f"{AB}max_step_percent": CFD}
ONE = {"data.batch_size": 1, "system.n_particles": 1}
FROM_ZERO = {"system.init_std": 0.0}
NO_PERP_NEG = {"system.prompt_processor.use_perp_neg": A}
INVERSION = {f"{AB}settings.inversion_guidance_scale": -6.5}
FALLING = {f"{AB}weighting_strategy": "asd"}
ALL_T = {f"{AB}max_step_percent": 0.98}
EDITED = {
    **ONE,
    "system.originals": "???",
    f"{AB}texts.reference_cond": "???",
    f"{AB}min_step_percent": 0.05,
    f"{AB}max_step_percent": 0.948,
    "system.optimizer.name": "SGD",
    "system.optimizer.args.betas": A,
    "system.optimizer.args.eps": A,
    "system.optimizer.params.particles.lr": 0.1,
}
NEGATIVE = "system.prompt_processor.negative_prompt"
MODEL_OF = "system.{}.pretrained_model_name_or_path"
OFF = {"system.loss.lambda_sparsity": 0.0, "system.loss.lambda_opaque": 0.0}
# SDI's regularisers that need no normals, as its followers have them.
AS_SDI = {
    "system.loss.lambda_sparsity": [0, 0.15, 0.0, 3000],
    "system.loss.lambda_opaque": 0.1,
    "system.loss.lambda_z_variance": 1.0,
    "trainer.max_steps": 10000,
}


def root(steps, high, low):
    """Both edges of t, which falls with the root of the steps, on lines between its quarters."""
    knots = [(high - (high - low) * k / 4, round(steps * (k / 4) ** 2)) for k in range(1, 5)]
    schedule = [0, high, *(round(x, 6) for knot in knots for x in knot)]
    return {f"{AB}min_step_percent": schedule, f"{AB}max_step_percent": schedule}


def stages(*steps):
    """CSD's: against the empty prompt, the negative one, both."""
    first, second = steps
    return {
        f"{AB}settings.negative_scale": [0, 0.0, -1.0, first, -0.5, second],
        f"{AB}settings.null_scale": [0, -1.0, 0.0, first, -0.5, second],
    }


def bridge(step, row, scale, first="sds"):
    names = {f"{AB}method.0": first, f"{AB}method.{step}": row}
    return {**names, f"{AB}guidance_scale": scale}


def bridged(**words):
    return {f"{AB}texts.bridge_{end}": text for end, text in words.items()}


def of(method, scale=None):
    return {f"{AB}method": method, f"{AB}guidance_scale": scale or A}


# What each changes in asd-nerf.yaml or asd-2d.yaml, beyond the critic and its keys.
CHANGES = {
    "cfd-2d": {
        **of("cfd-2d", 8.0), **falls(1000), **ONE, **FROM_ZERO, **adam(0.0025, [0.0, 0.99])
    },
    "cfd-nerf": {**of("cfd", 70.0), **CFD},
    "cds-nerf": {
        **of("cds", [0, 101.0, 51.0, 3000]), **root(3000, 0.7, 0.1), **NO_PERP_NEG, **OFF,
        f"{AB}grad_clip": [0, 2.0, 8.0, 3000],
        "data.batch_size": [8, 8],
        "trainer.max_steps": 3000,
        "checkpoint.every_n_train_steps": 1000,
    },
    "csd-nerf": {
        **of("csd"), **stages(5000, 15000), NEGATIVE: METHODS.get("csd").negative_prompt
    },
    "dds-2d": {
        **of("dds", 7.5), **EDITED, "system.loss.lambda_asd": 2000.0, "trainer.max_steps": 200
    },
    "dsd-nerf": {**of("dsd", 7.5), **root(10000, 0.98, 0.32), **AS_SDI},
    "esd-nerf": {**of("esd", 7.5), **NO_PERP_NEG, f"{AB}share_noise": False},
    "fsd-2d": {
        **of("fsd-2d", 8.0), **falls(1000), **FALLING, **ONE, **FROM_ZERO,
        **adam(0.0025, [0.0, 0.99]),
    },
    "fsd-nerf": {**of("fsd", 70.0), **CFD, **FALLING},
    "ism-nerf": {
        **of("ism", 7.5),
        f"{AB}max_step_percent": [0, 0.98, 0.5, 1500],
        "system.loss.lambda_asd": 0.1,
        NEGATIVE: "unrealistic, blurry, low quality, out of focus, ugly, low contrast, dull, dark, "
        "low-resolution, oversaturation.",
    },
    "jsd-nerf": {
        **of("jsd", 13.5), **falls(10000, 0.25), **AS_SDI,
        f"{AB}settings.inversion_guidance_scale": -13.5,
    },
    "lmc-sds-2d": {
        **of("lmc-sds", 7.5),
        MODEL_OF.format("guidance"): "???",
        MODEL_OF.format("prompt_processor"): f"${{{MODEL_OF.format('guidance')}}}",
    },
    "nfsd-2d": {**of("nfsd", 7.5), **ALL_T, "system.optimizer.params.particles.lr": 0.01},
    "nfsd-nerf": of("nfsd", 7.5),
    "sdi-2d": {**of("sdi", 8.5), **falls(1000), **INVERSION, **FROM_ZERO, **adam(0.1)},
    "sdi-nerf": {
        **of("sdi", 7.5),
        **falls(10000, 0.25),
        "system.loss.lambda_sparsity": [3000, 0.15, 0.0, 3001],
        "system.loss.lambda_opaque": 0.1,
        "system.loss.lambda_z_variance": 1.0,
        "trainer.max_steps": 10000,
    },
    "sds-bridge-2d": {
        **bridge(500, "sds-bridge", 40.0), **ALL_T, "system.optimizer.params.particles.lr": 0.01
    },
    "sds-bridge-nerf": {
        **bridge(20000, "sds-bridge-3d", 100.0), **NO_PERP_NEG, **bridged(target="{prompt}, .")
    },
    "sim-nerf": {
        **bridge(14000, "vsd", 8.5, first="sim"), **NO_PERP_NEG, **OFF, f"{AB}share_noise": False
    },
    "tiny/cds-nerf": {
        **of("cds", 20.0),
        f"{AB}min_step_percent": [0, 0.7, 0.1, 500],
        f"{AB}max_step_percent": [0, 0.7, 0.1, 500],
    },
    "tiny/cfd-2d": {
        **of("cfd-2d", 7.5), **falls(300), **ONE, **FROM_ZERO,
        "system.optimizer.args.betas": [0.0, 0.99], "system.optimizer.params.particles.lr": 0.01,
    },
    "tiny/cfd-nerf": {**of("cfd", 20.0), **falls(500, 0.2)},
    "tiny/csd-nerf": {**of("csd"), **stages(100, 300), NEGATIVE: BAD},
    "tiny/dds-2d": {**of("dds", 7.5), **EDITED, "system.loss.lambda_asd": 125.0},
    "tiny/dsd-nerf": {
        **of("dsd", 8.5), **falls(500, 0.32), f"{AB}settings.dsd_source_scale": 2.0
    },
    "tiny/esd-nerf": of("esd", 20.0),
    "tiny/fsd-2d": {
        **of("fsd-2d", 7.5), **falls(300), **FALLING, **ONE, **FROM_ZERO,
        "system.optimizer.args.betas": [0.0, 0.99], "system.optimizer.params.particles.lr": 0.01,
    },
    "tiny/fsd-nerf": {**of("fsd", 20.0), **falls(500, 0.2), **FALLING},
    "tiny/ism-nerf": of("ism", 7.5),
    "tiny/jsd-nerf": {
        **of("jsd", 14.5), **falls(500, 0.25), f"{AB}settings.inversion_guidance_scale": -12.5
    },
    "tiny/lmc-sds-2d": of("lmc-sds", 7.5),
    "tiny/nfsd-2d": {**of("nfsd", 7.5), f"{AB}texts.negative": BAD},
    "tiny/nfsd-nerf": {**of("nfsd", 7.5), f"{AB}texts.negative": BAD},
    "tiny/sdi-2d": {**of("sdi", 8.5), **falls(300), **INVERSION, **FROM_ZERO},
    "tiny/sdi-nerf": {**of("sdi", 8.5), **falls(500, 0.25), **INVERSION},
    "tiny/sds-bridge-2d": {
        **bridge(150, "sds-bridge", 7.5), **bridged(source=FLAWED, target="{prompt}"),
        f"{AB}settings.bridge_scale": 7.5,
    },
    "tiny/sds-bridge-nerf": {
        **bridge(400, "sds-bridge-3d", 20.0), **bridged(source=FLAWED, target="{prompt}")
    },
    "tiny/sim-nerf": bridge(280, "vsd", 20.0, first="sim"),
}  # fmt: skip
# Of the critic alone.
OF_CRITIC = {
    f"{AB}pretrained_model_name_or_path_lora",
    f"{AB}lora_rank",
    f"{AB}lora_target_modules",
    f"{AB}camera_condition_type",
    "system.loss.lambda_lora",
    "system.optimizer.params.guidance.lr",
}
OF_ASD = {f"{AB}{key}" for key in ("gamma", "gamma_target", "share_noise")}


def file_of(name):
    folder, _, stem = name.rpartition("/")
    return f"{folder}/family/{stem}".lstrip("/")


@pytest.mark.parametrize("name", CHANGES)
def test_a_config_differs_in_what_its_method_needs(name):
    folder, _, stem = name.rpartition("/")
    base = f"{folder}/asd-{stem.rpartition('-')[2]}.yaml".lstrip("/")
    found = changes(base, f"{file_of(name)}.yaml")
    suffix = f"-{folder}" if folder else ""
    assert found.pop("name")[1] == f"{stem}{suffix}"
    gone = {path for path, (_, value) in found.items() if value == A}
    expected = CHANGES[name]
    critics = {f"{AB}pretrained_model_name_or_path_lora"} if stem == "sim-nerf" else OF_CRITIC
    critics = set() if stem == "esd-nerf" else critics
    assert gone - critics - OF_ASD <= set(expected) and OF_ASD - gone <= set(expected)
    own = {path: value for path, (_, value) in found.items() if path not in gone | OF_CRITIC}
    own |= {path: A for path in gone & set(expected)}
    same = {path for path, value in expected.items() if path not in own}
    assert own == {path: value for path, value in expected.items() if path not in same}
    # What it has in common with the base is stated all the same.
    assert same <= {f"{AB}guidance_scale", f"{AB}min_step_percent"}


def test_each_has_a_twin_and_each_row_a_config():
    assert set(CHANGES) == {*NAMES, *(f"tiny/{name}" for name in NAMES)}
    tiny = {path.stem for path in (CONFIGS / "tiny/family").glob("*.yaml")}
    assert tiny == set(NAMES)
    rows = {str(value) for some in CHANGES.values() for key, value in some.items()
            if key.startswith(f"{AB}method")}  # fmt: skip
    assert rows - {"sds", "vsd"} == set(METHODS) - OTHERS


def loaded(name, *overrides):
    asked = (PROMPT, *(EDIT if "dds" in name else ()), *(MODEL if name == "lmc-sds-2d" else ()))
    return load_config(find_config(file_of(name)), cli_args=(*asked, *overrides))


@pytest.mark.parametrize("name", CHANGES)
def test_every_key_and_value_is_one_of_the_program(name):
    """All that can be told without a model."""
    cfg = loaded(name)
    check_system(cfg)
    guidance = parse_structured(StableDiffusionASDGuidance.Config, cfg.system.guidance)
    methods, _ = checks.checked(guidance, torch.device("cpu"))
    checks.method_settings(guidance, methods)
    wordings(guidance.texts, {need for method in methods.values() for need in method.needs})


def test_another_methods_setting_is_refused():
    cfg = loaded("csd-nerf", "system.guidance.settings.bridge_scale=30")
    guidance = parse_structured(StableDiffusionASDGuidance.Config, cfg.system.guidance)
    methods, _ = checks.checked(guidance, torch.device("cpu"))
    with pytest.raises(UserError, match=r"no setting of method 'csd' but of 'sds-bridge'"):
        checks.method_settings(guidance, methods)


def test_what_an_edit_needs_is_asked_for_by_name():
    with pytest.raises(UserError, match=r"system\.(originals|guidance\.texts\.reference_cond)"):
        load_config(find_config("family/dds-2d"), cli_args=(PROMPT,))
