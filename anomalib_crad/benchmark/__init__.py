# SPDX-License-Identifier: Apache-2.0

"""Models x datasets x seeds under one protocol: ``anomalib-crad benchmark --config configs/benchmark.yaml``.

``plan`` declares what a benchmark compares and ``plan_file`` reads it. ``cells`` divides it into pieces that run
independently; ``runner`` runs them one after the other, each in a process of ``worker``, and resumes a stopped run.
``quality`` trains, tests and exports a model, ``cost`` measures the export. ``results`` turns what the cells leave into
rows, ``tables`` and ``plots`` show them.

Why not ``anomalib benchmark``: its table takes its columns from the first job, so models with different arguments
cannot share a run; it passes no trainer arguments, seeds after it has built the model, keeps nothing of a stopped run,
and one failing job ends it. It also measures after post-processing, and it measures no cost.
"""
