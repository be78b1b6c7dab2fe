# SPDX-License-Identifier: Apache-2.0

"""Models x datasets x seeds under one protocol: ``python -m anomalib_crad benchmark --config configs/benchmark.yaml``.

``plan`` reads what is to be compared, ``cells`` cuts it into pieces that run by themselves, ``runner`` runs them one
after the other and resumes where it was stopped, ``report`` turns their results into tables and plots.

Why not ``anomalib benchmark``: its table takes its columns from the first job, so models with different arguments
cannot share a run; it passes no trainer arguments, seeds after a model is built, keeps nothing of a stopped run, and
one failing job ends it. It also measures after post-processing, and no cost.
"""
