# SPDX-License-Identifier: Apache-2.0

"""DMAD: two memory banks, of normal and of abnormal patches, for detectors that may have seen a few defects."""
