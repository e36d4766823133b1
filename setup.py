"""Which packages there are: all folders of hepcal/, and processors/, which is installed as hepcal.processors."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["hepcal*"]), "hepcal.processors"])
