# SPDX-License-Identifier: Apache-2.0

"""A package, so that test files of two models may have one name."""
