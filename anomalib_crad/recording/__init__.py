# SPDX-License-Identifier: Apache-2.0

"""One pass over the predictions of an epoch: categories of images, repeats, raw records, several processes."""
