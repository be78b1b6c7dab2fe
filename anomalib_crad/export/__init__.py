# SPDX-License-Identifier: Apache-2.0

"""What an export of our models needs beyond anomalib's: checks, names, whole files and quantisation.

anomalib's exporter does the export; :mod:`anomalib_crad.export.exportable` calls it and these around it.
"""
