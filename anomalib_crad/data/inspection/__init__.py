# SPDX-License-Identifier: Apache-2.0

"""A look at the images before a training."""
