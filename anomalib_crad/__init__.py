# SPDX-License-Identifier: Apache-2.0

"""CRAD and unified multi-class anomaly detection for anomalib."""

__version__ = "0.1.0"
