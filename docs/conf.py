# SPDX-License-Identifier: Apache-2.0

"""Settings of the documentation site: ``sphinx-build docs docs/_build``."""

import anomalib_crad

project = "anomalib-crad"
version = release = anomalib_crad.__version__
extensions = ["myst_parser"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
# Pages link to files of the source tree, which a site does not hold.
suppress_warnings = ["myst.xref_missing"]
html_theme = "sphinx_book_theme"
