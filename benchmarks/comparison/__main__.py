"""Measure the runs that are missing."""

import tyro

from comparison.measure import Comparison, main

main(tyro.cli(Comparison))
