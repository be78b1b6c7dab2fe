# SPDX-License-Identifier: Apache-2.0

"""From the arguments of a datamodule of many categories to datamodules of one category each."""
