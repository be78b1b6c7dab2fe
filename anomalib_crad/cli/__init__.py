# SPDX-License-Identifier: Apache-2.0

"""The commands of ``anomalib-crad``: ``main`` chooses one, each is a file, and ``arguments`` has what they share."""
