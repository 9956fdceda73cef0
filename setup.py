"""Packaging of threestudio-asd; ``configs/`` at the root ships as ``threestudio_asd.configs``."""

import runpy
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = next(
    line.split('"')[1]
    for line in (ROOT / "threestudio_asd/__init__.py").read_text().splitlines()
    if line.startswith("__version__")
)
# The drop-in and the doctor check the same table.
NEEDS = runpy.run_path(str(ROOT / "threestudio_asd/requirements.py"))

# Folders of YAML files alone, which are no packages by themselves.
CONFIGS = [
    "threestudio_asd.configs" + "".join(f".{part}" for part in folder)
    for folder in ((), ("compare",), ("family",), ("tiny",), ("tiny", "family"))
]

setup(
    name="threestudio-asd",
    version=VERSION,
    description="Adversarial score distillation for text-to-3D, inside threestudio and without it",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=" + NEEDS["PYTHON"],
    packages=[
        *find_packages(include=["threestudio_asd", "threestudio_asd.*"]),
        *CONFIGS,
    ],
    package_dir={"threestudio_asd.configs": "configs"},
    package_data={
        "threestudio_asd.dropin.template": ["README.md"],
        "threestudio_asd.compare.report.assets": ["*.css", "*.js", "*.glsl"],
        "threestudio_asd.portable": ["standins/**/*.py"],
        "threestudio_asd.tiny": ["weights/**/*"],
        **{package: ["*.yaml"] for package in CONFIGS},
    },
    install_requires=[
        name + versions for part in ("PLUGIN", "BUNDLED") for name, versions in NEEDS[part].items()
    ],
    extras_require={
        # What an unmodified threestudio imports besides our own needs, as far as it can be
        # installed today; threestudio_asd.portable stands in for the rest.
        "upstream": [
            "libigl==2.5.1",  # 2.6 has lost functions that threestudio imports
            "einops>=0.6",
            "envlight==0.1.0",
            "matplotlib>=3.7",
            "networkx>=3",
            "opencv-python-headless>=4.7",
            "PyMCubes>=0.1.4",
            "scipy>=1.11",
            "tqdm>=4.65",
            "typeguard>=4",
            "xatlas>=0.0.8",
        ],
        # Texture coordinates of exported meshes.
        "textures": ["xatlas>=0.0.8"],
        "dev": [
            "xatlas>=0.0.8",
            "embreex>=2.17.7",
            "pytest>=8",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",
            "beartype>=0.18",
            "ruff>=0.6",
            "build>=1.2",
        ],
    },
    entry_points={"console_scripts": ["threestudio-asd=threestudio_asd.cli.main:main"]},
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Multimedia :: Graphics :: 3D Modeling",
    ],
)
