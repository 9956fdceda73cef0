"""Packaging of threestudio-asd; ``configs/`` at the root ships as ``threestudio_asd.configs``."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = next(
    line.split('"')[1]
    for line in (ROOT / "threestudio_asd/__init__.py").read_text().splitlines()
    if line.startswith("__version__")
)

setup(
    name="threestudio-asd",
    version=VERSION,
    description="Adversarial score distillation for text-to-3D, inside threestudio and without it",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=[
        *find_packages(include=["threestudio_asd", "threestudio_asd.*"]),
        "threestudio_asd.configs",
        "threestudio_asd.configs.tiny",
    ],
    package_dir={"threestudio_asd.configs": "configs"},
    package_data={
        "threestudio_asd.tiny": ["weights/**/*"],
        "threestudio_asd.configs": ["*.yaml"],
        "threestudio_asd.configs.tiny": ["*.yaml"],
    },
    install_requires=[
        "torch>=2.11,<2.14",
        "numpy>=1.26",
        "diffusers>=0.40,<0.44",
        "transformers>=5.0,<6",
        "accelerate>=1.0",
        "peft>=0.19",
        "pytorch-lightning>=2.5,<2.7",
        "omegaconf>=2.3",
        "warp-lang>=1.10",
        "jaxtyping>=0.2.34",
        "trimesh>=4.5",
        "scikit-image>=0.24",
        "imageio>=2.34",
        "imageio-ffmpeg>=0.5",
        "pillow>=10",
        "rich>=13",
        "safetensors>=0.4",
        "tensorboard>=2.16",
        "torchmetrics>=1.4",
    ],
    extras_require={
        "dev": ["pytest>=8", "pytest-timeout>=2.3", "beartype>=0.18", "ruff>=0.6", "build>=1.2"],
    },
    entry_points={"console_scripts": ["threestudio-asd=threestudio_asd.cli.main:main"]},
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3",
        "Topic :: Multimedia :: Graphics :: 3D Modeling",
    ],
)
